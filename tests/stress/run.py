"""CPython's own tests with the profiler on at 1000 Hz: nothing may fail that passes without it.

    python tests/stress/run.py                       all files below, this interpreter
    python tests/stress/run.py test_asyncio test_gc  only these
    python tests/stress/run.py --minutes 20 --state FILE   as far as that; then on where FILE says
    python tests/stress/run.py --engine portable

The profiler is switched on by ``conprof run``, so the children that tests start are profiled too.
All types are on. The kernel merges CPU timers to its tick, so the signals of conprof's timers are
also sent from outside (``sender.py``).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stress import measure
from stress.measure import Item

FILES = """
    test_asyncgen test_asyncio test_atexit test_audit test_class test_code test_collections
    test_compile test_concurrent_futures test_context test_coroutines test_ctypes test_dict
    test_decorators test_descr test_enum test_exception_group test_exceptions test_faulthandler
    test_fork1 test_frame test_functools test_gc test_generators test_inspect test_io test_iter
    test_json test_list test_memoryview test_multiprocessing_fork test_pickle test_posix
    test_queue test_re test_sched test_selectors test_set test_socket test_sqlite3 test_struct
    test_subprocess test_sys test_sys_setprofile test_sys_settrace test_thread
    test_threadedtempfile test_threading test_threading_local test_threadsignals test_timeout
    test_traceback test_typing test_unittest test_weakref test_with test_yield_from test_zlib
""".split()  # noqa: SIM905 - a list of seventy strings is no better to read
# Off: the profiler sends SIGPROF-like signals, and this file tests who gets which signal.
KNOWN_ARTEFACTS = {"test_signal": "tests SIGPROF itself"}
# Cases that assert on every audit event of a whole process, the profiler's own at exit included.
KNOWN_CASES = {
    f"test.test_audit.AuditTest.{case}"
    for case in ("test_sys_getframe", "test_sys_getframemodulename", "test_threading")
}
# Cases that list every descriptor of a process: with the type ``tasks`` it has the socket that
# ``conprof tasks`` asks, and a pipe to wake its thread.
KNOWN_CASES |= {"test.test_subprocess.POSIXProcessTestCase.test_pass_fds_redirected"}
# A case that counts the threads of a forked child: with the type ``tasks`` it has one more.
KNOWN_CASES |= {"test.test_threading.ThreadJoinOnShutdown.test_clear_threads_states_after_fork"}
# Cases that deadlock in this very Python every now and then, and more often where time passes
# differently; they run neither off nor on.
DEADLOCKS = {
    "test_concurrent_futures": (
        "test_shutdown_deadlock_pickle",
        "python/cpython#125451, a lock taken in two orders, fixed in 3.12.8 and 3.13.1",
    )
}


def _item(name: str) -> Item:
    command = ["-m", "test", "--junit-xml", "{xml}", "-u", "none,cpu"]
    if _deadlocks(name):
        command += ["--ignore", DEADLOCKS[name][0]]
    return Item(name, (*command, name), known_cases=frozenset(KNOWN_CASES))


def main() -> int:
    """Run the files, print a line each, return 1 if one is worse."""
    parser = measure.options(__doc__)
    parser.add_argument("files", nargs="*", metavar="test_x", help="default: all of the list")
    args = parser.parse_args()
    files = args.files or FILES
    for name in sorted(set(files) & set(KNOWN_ARTEFACTS)):
        print(f"{name}: {KNOWN_ARTEFACTS[name]}; a failure says nothing")
    for name in files:
        if _deadlocks(name):
            print(f"{name}: without {': '.join(DEADLOCKS[name])}")
    here = [name for name in files if _exists(name)]
    for name in files:
        if name not in here:
            print(f"{name:28} not part of this Python's test package")
    if not here:
        print("this Python came without CPython's tests; Debian has them in libpython3.X-testsuite")
        return 1
    return measure.run_all([_item(name) for name in here], args)


def _deadlocks(name: str) -> bool:
    import inspect
    from concurrent.futures.process import _SafeQueue

    # The queue that still takes the lock of the pool is the one that deadlocks.
    return name in DEADLOCKS and "shutdown_lock" in inspect.signature(_SafeQueue).parameters


def _exists(name: str) -> bool:
    import importlib.util

    try:
        return importlib.util.find_spec(f"test.{name}") is not None
    except ImportError:
        return False


if __name__ == "__main__":
    raise SystemExit(main())
