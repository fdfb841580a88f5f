/* gc_pause.c: see gc_pause.h. */
#include "gc_pause.h"

#include <errno.h>
#include <unistd.h>

#include "capture.h"
#include "clock.h"
#include "code_registry.h"
#include "own_tid.h"
#include "sampler.h"
#include "signals.h"

/* owner: GIL holder */
static struct {
    uint64_t ns, count;
} sums[CONPROF_GC_GENERATIONS];
static uint64_t began_ns; /* of the collection under way; 0: none */
static uint64_t quantum_ns = CONPROF_GC_QUANTUM_NS;
static uint64_t random_state = 0x9E3779B97F4A7C15;
static PyObject *generation_key; /* immutable after init */

/* xorshift64*. A strict quantum would beat with collections that come at regular places. */
static void
draw_quantum(void)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    quantum_ns = CONPROF_GC_QUANTUM_NS / 2 +
                 random_state * UINT64_C(0x2545F4914F6CDD1D) % CONPROF_GC_QUANTUM_NS;
}

/* ---- the record ---- */

/* Emits the sum of a generation, `is_placed` with where the calling thread stands; it keeps
 * the sum when the ring is full. */
static void
emit(uint32_t generation, bool is_placed)
{
    /* owner: holder of the main interpreter's GIL; too large for the stack of whoever collects */
    static struct conprof_stack stack;
    struct conprof_ring_slot slot;
    const PyThreadState *ts = PyThreadState_Get();
    if (ts->interp != conprof_sampler.interpreter) {
        return;
    }
    struct conprof_marks marks = conprof_marks_none();
    int frames = 0;
    if (is_placed) {
        marks = conprof_capture_marks(ts);
        if (conprof_unwind_caller(ts, &stack) == CONPROF_WALK_OK) {
            frames = conprof_capture_translate(&stack);
        }
        frames = frames < 0 ? 0 : frames;
    }
    if (!conprof_ring_reserve(&conprof_sampler.ring, 2 + CONPROF_PAUSE_FRAMES + (uint32_t)frames,
                              &slot)) {
        conprof_sampler_call_drain();
        return;
    }
    conprof_ring_put(&slot, 1 + CONPROF_PAUSE_NS, sums[generation].ns);
    conprof_ring_put(&slot, 1 + CONPROF_PAUSE_COUNT, sums[generation].count);
    conprof_ring_put(&slot, 1 + CONPROF_PAUSE_CELL, marks.cell_id);
    conprof_ring_put(&slot, 1 + CONPROF_PAUSE_RECORD, (uint64_t)(uintptr_t)marks.record);
    conprof_ring_put(&slot, 1 + CONPROF_PAUSE_THREAD, (uint64_t)conprof_own_tid());
    conprof_ring_put(&slot, 1 + CONPROF_PAUSE_FRAMES,
                     conprof_frame_word(CONPROF_UID_GC, generation));
    if (frames > 0) {
        conprof_capture_put(&slot, 2 + CONPROF_PAUSE_FRAMES, &stack);
    }
    conprof_ring_publish(&slot, CONPROF_RECORD_PAUSE);
    sums[generation].ns = sums[generation].count = 0;
    if (conprof_ring_fill(&conprof_sampler.ring) > CONPROF_CALL_DRAIN_AT) {
        conprof_sampler_call_drain();
    }
}

/* Emits sums of at least `least_ns`. As in the CPU handler: stop() clears is_active and waits
 * for in_handler to be 0, and label records in limbo stay while it is not. */
static void
emit_from(uint64_t least_ns, bool is_placed)
{
    int saved_errno = errno;
    conprof_signal_set old;
    conprof_signals_block(&old);
    atomic_fetch_add(&conprof_sampler.in_handler, 1);
    if (atomic_load(&conprof_sampler.is_active)) {
        for (uint32_t i = 0; i < CONPROF_GC_GENERATIONS; i++) {
            if (sums[i].count > 0 && sums[i].ns >= least_ns) {
                emit(i, is_placed);
                draw_quantum();
            }
        }
    }
    atomic_fetch_sub(&conprof_sampler.in_handler, 1);
    conprof_signals_restore(&old);
    errno = saved_errno;
}

void
conprof_gc_pause_add(struct conprof_window *window, const uint64_t *words, uint32_t n)
{
    if (n <= CONPROF_PAUSE_FRAMES || !window->has_wall) {
        return;
    }
    const struct conprof_thread *thread = conprof_threads_find((pid_t)words[CONPROF_PAUSE_THREAD]);
    struct conprof_marks marks = {
        .record = (struct conprof_label_record *)(uintptr_t)words[CONPROF_PAUSE_RECORD],
        .cell_id = words[CONPROF_PAUSE_CELL]};
    struct conprof_row *row =
        conprof_window_row(window, words + CONPROF_PAUSE_FRAMES, n - CONPROF_PAUSE_FRAMES, &marks,
                           thread == NULL ? 0 : thread->name_id);
    conprof_window_charge(window, row, CONPROF_COLUMN_GC_PAUSES, words[CONPROF_PAUSE_COUNT]);
    conprof_window_charge(window, row, CONPROF_COLUMN_GC_PAUSE_NS, words[CONPROF_PAUSE_NS]);
}

/* ---- the callback ---- */

void
conprof_gc_pause_forget(void)
{
    for (uint32_t i = 0; i < CONPROF_GC_GENERATIONS; i++) {
        sums[i].ns = sums[i].count = 0;
    }
    began_ns = 0;
}

/* The generation of a collection, from what gc.callbacks are told. */
static uint32_t
generation_of(PyObject *info)
{
    PyObject *value =
        PyDict_CheckExact(info) ? PyDict_GetItemWithError(info, generation_key) : NULL;
    long generation = value == NULL ? 0 : PyLong_AsLong(value);
    PyErr_Clear();
    return generation < 0 || generation >= (long)CONPROF_GC_GENERATIONS ? CONPROF_GC_GENERATIONS - 1
                                                                        : (uint32_t)generation;
}

static PyObject *
gc_callback(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count)
{
    if (count != 2 || !PyUnicode_Check(arguments[0])) {
        PyErr_SetString(PyExc_TypeError, "gc_callback(phase, info)");
        return NULL;
    }
    if (PyUnicode_CompareWithASCIIString(arguments[0], "start") == 0) {
        began_ns = conprof_monotonic_ns();
    }
    else if (began_ns != 0) {
        uint64_t pause = conprof_monotonic_ns() - began_ns;
        began_ns = 0;
        if (!atomic_load_explicit(&conprof_sampler.is_paused, memory_order_relaxed)) {
            uint32_t generation = generation_of(arguments[1]);
            sums[generation].ns += pause;
            sums[generation].count++;
            if (sums[generation].ns >= quantum_ns) {
                emit_from(quantum_ns, true);
            }
        }
    }
    Py_RETURN_NONE;
}

static PyObject *
gc_flush(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    emit_from(0, false);
    conprof_gc_pause_forget();
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"gc_callback", (PyCFunction)(void (*)(void))gc_callback, METH_FASTCALL,
     "gc_callback(phase, info)\n\nFor gc.callbacks: charges pauses of the collector."},
    {"gc_flush", gc_flush, METH_NOARGS,
     "Charge the sum of short pauses that is left, to nobody in particular."},
    {NULL, NULL, 0, NULL},
};

int
conprof_gc_pause_init(PyObject *module)
{
    if (generation_key == NULL) {
        generation_key = PyUnicode_InternFromString("generation");
    }
    return generation_key == NULL ? -1 : PyModule_AddFunctions(module, functions);
}
