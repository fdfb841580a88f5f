"""The handler reads nothing that may be gone: each program here kills one in which it does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

import pytest
from support.process import run_script


@pytest.fixture
def compiler() -> str:
    found = shutil.which("cc") or shutil.which("gcc")
    if found is None:
        pytest.skip("there is no C compiler")
    return found


def build(compiler: str, source: str, path: Path, *flags: str) -> Path:
    code = path.with_suffix(".c")
    code.write_text(textwrap.dedent(source))
    subprocess.run([compiler, "-O1", "-o", str(path), str(code), *flags], check=True, timeout=60)
    return path


# CPython 3.13 pops the frame of a generator function, and may unmap the chunk that held it, before
# `current_frame` moves: with a call of one at each depth some lie first in their chunk.
TREE_WALK = """
    import time
    import conprof_core

    conprof_core.start(application_name="t", export_to="none:", cpu_profile_rate=1000)

    def visit(depth):
        if any(name == depth for name in ("a", "b")):
            return 0
        return 1 + sum([visit(depth - 1)]) if depth else 0

    until = time.monotonic() + 6
    while time.monotonic() < until:
        visit(250)
    print(conprof_core.stats()["engine_stats"]["samples"] > 100)
"""


def test_generators_made_at_every_depth() -> None:
    assert run_script(textwrap.dedent(TREE_WALK)).stdout.split() == ["True"]


# A range from the handler's stack to the end of the thread's would take in all that is mapped, and
# not mapped, between them, generators too.
LOW_SIGNAL_STACK = """
    import ctypes, threading, time
    from conprof_core.testing import capture

    class SignalStack(ctypes.Structure):
        _fields_ = [("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

    libc = ctypes.CDLL(None)
    libc.mmap.restype = libc.pthread_self.restype = ctypes.c_size_t

    def own_stack():
        attributes, low, size = (ctypes.c_char * 64)(), ctypes.c_size_t(), ctypes.c_size_t()
        libc.pthread_getattr_np(ctypes.c_size_t(libc.pthread_self()), attributes)
        libc.pthread_attr_getstack(attributes, ctypes.byref(low), ctypes.byref(size))
        return low.value

    def generator():
        while True:
            until = time.thread_time() + 0.05
            while time.thread_time() < until:
                sum(range(500))
            yield

    def run():
        low, size = own_stack(), ctypes.c_size_t(256 << 10)
        is_there.set()
        go.wait()
        wanted = ctypes.c_size_t(low - (1 << 30))
        memory = libc.mmap(wanted, size, 3, 0x22, -1, ctypes.c_long(0))
        assert libc.sigaltstack(ctypes.byref(SignalStack(memory, 0, size.value)), None) == 0
        it = next(it for it in hoard if memory < id(it) < low)  # the premise
        for _ in range(10):
            next(it)

    is_there, go = threading.Event(), threading.Event()
    with capture(cpu_profile_rate=1000) as captured:
        thread = threading.Thread(target=run)
        thread.start()
        is_there.wait()
        hoard = [generator() for _ in range(300_000)]
        go.set()
        thread.join()
    walked = [row for row in captured.rows if any("generator" in f[0] for f in row.frames)]
    print(sum(row.cpu_ns for row in walked) > 0.4e9)
"""


def test_a_generator_under_a_low_signal_stack_is_walked() -> None:
    assert run_script(textwrap.dedent(LOW_SIGNAL_STACK)).stdout.split() == ["True"]


# Deletes the state of a thread that runs C code without the GIL, whose key still names it. Its
# memory, taken from pages of its own, is unmapped at once.
DELETED = """
    #define _GNU_SOURCE
    #include <Python.h>
    #include <pthread.h>
    #include <sys/mman.h>
    #include <time.h>
    static PyMemAllocatorEx before;
    static size_t size_of(size_t n) { return (n + 64 + 4095) & ~(size_t)4095; }
    static void *paged(void *c, size_t n)
    {
        int kind = MAP_PRIVATE | MAP_ANONYMOUS;
        char *at = mmap(NULL, size_of(n), PROT_READ | PROT_WRITE, kind, -1, 0);
        *(size_t *)at = n;
        return at + 64;
    }
    static void *zeroed(void *c, size_t n, size_t m) { return paged(c, n * m); }
    static void *again(void *c, void *p, size_t n)
    {
        void *fresh = paged(c, n);
        if (p) {
            size_t old = *(size_t *)((char *)p - 64);
            memcpy(fresh, p, old < n ? old : n);
            munmap((char *)p - 64, size_of(old));
        }
        return fresh;
    }
    static void gone(void *c, void *p)
    {
        if (p) munmap((char *)p - 64, size_of(*(size_t *)((char *)p - 64)));
    }
    static volatile int step;
    static PyThreadState *theirs;
    static void *run(void *unused)
    {
        struct timespec cpu, end;
        PyEval_RestoreThread(PyThreadState_New(PyInterpreterState_Main()));
        theirs = PyEval_SaveThread();
        step = 1;
        while (step != 2) { }
        do {
            clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
        } while (cpu.tv_sec * 1000000000L + cpu.tv_nsec < 500000000L);
        step = 3;
        return NULL;
    }
    int delete_state(void)
    {
        pthread_t thread;
        PyMemAllocatorEx pages = {NULL, paged, zeroed, again, gone};
        PyMem_GetAllocator(PYMEM_DOMAIN_RAW, &before);
        PyMem_SetAllocator(PYMEM_DOMAIN_RAW, &pages);
        pthread_create(&thread, NULL, run, NULL);
        Py_BEGIN_ALLOW_THREADS
        while (step != 1) { }
        Py_END_ALLOW_THREADS
        PyThreadState_Clear(theirs);
        PyThreadState_Delete(theirs);
        PyMem_SetAllocator(PYMEM_DOMAIN_RAW, &before);
        step = 2;
        Py_BEGIN_ALLOW_THREADS
        pthread_join(thread, NULL);
        Py_END_ALLOW_THREADS
        return step;
    }
"""

DELETE = """
    import ctypes, sys
    from conprof_core.testing import capture

    library = ctypes.PyDLL(sys.argv[1])
    with capture(cpu_profile_rate=1000) as captured:
        assert library.delete_state() == 3
    print(sum(row.cpu_ns for row in captured.rows) > 0.4e9)
"""


def test_a_state_that_another_thread_deletes(compiler: str, tmp_path: Path) -> None:
    include = sysconfig.get_path("include")
    library = build(compiler, DELETED, tmp_path / "deleted.so", "-shared", "-fPIC", "-I", include)
    done = run_script(textwrap.dedent(DELETE), str(library))
    assert done.stdout.split() == ["True"]


# Where libpython was loaded by dlopen, the first touch of its thread-local storage in a thread
# allocates: in the handler of a thread that stands in malloc, that is the end of it.
HOST = """
    #include <dlfcn.h>
    #include <pthread.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <time.h>
    static void *run(void *unused)
    {
        struct timespec cpu;
        do {
            for (int i = 0; i < 200; i++) {
                void *kept[8]; /* of a size that the thread's cache does not keep */
                for (int k = 0; k < 8; k++) kept[k] = malloc(3000 + 100 * k);
                for (int k = 0; k < 8; k++) free(kept[k]);
            }
            clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
        } while (cpu.tv_sec * 1000000000L + cpu.tv_nsec < 150000000L);
        return NULL;
    }
    int main(int argc, char **argv)
    {
        pthread_t threads[24];
        void *python = dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL);
        if (python == NULL) { puts(dlerror()); return 2; }
        ((void (*)(int))dlsym(python, "Py_InitializeEx"))(0);
        int (*simple)(const char *) = (int (*)(const char *))dlsym(python, "PyRun_SimpleString");
        if (simple(argv[2]) != 0) return 3;
        void *(*save)(void) = (void *(*)(void))dlsym(python, "PyEval_SaveThread");
        void (*restore)(void *) = (void (*)(void *))dlsym(python, "PyEval_RestoreThread");
        void *state = save();
        for (int i = 0; i < 24; i++) pthread_create(&threads[i], NULL, run, NULL);
        for (int i = 0; i < 24; i++) pthread_join(threads[i], NULL);
        restore(state);
        return simple(argv[3]) == 0 ? 0 : 4;
    }
"""

BEGIN = """
import conprof_core
conprof_core.start(application_name="t", export_to="none:", cpu_profile_rate=1000)
assert conprof_core.stats()["engine"] == "native", conprof_core.stats()
"""

END = """
counted = conprof_core.stats()["engine_stats"]
print(counted["native_samples"] > 20, flush=True)
conprof_core.stop()
"""


def shared_library() -> str | None:
    """Return the path of libpython, or ``None`` where it is not a file of its own."""
    name = sysconfig.get_config_var("INSTSONAME") or ""
    for directory in (
        sysconfig.get_config_var("LIBDIR"),
        f"/usr/lib/{os.uname().machine}-linux-gnu",
    ):
        for candidate in (name, f"libpython{sysconfig.get_config_var('VERSION')}.so.1.0"):
            if ".so" in candidate and (Path(directory or "/") / candidate).exists():
                return str(Path(directory or "/") / candidate)
    return None


def test_threads_without_python_beside_a_loaded_libpython(compiler: str, tmp_path: Path) -> None:
    library = shared_library()
    if library is None:
        pytest.skip("this interpreter has no shared library")
    host = build(compiler, HOST, tmp_path / "host", "-ldl", "-lpthread")
    environment = {
        **os.environ,
        "PYTHONHOME": f"{sys.base_prefix}:{sys.base_exec_prefix}",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    done = subprocess.run(
        [str(host), library, BEGIN, END],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout.split()) == (0, ["True"]), done.stderr
