/* suspended.c: see suspended.h. */
#include "suspended.h"

#include "code_registry.h"
#include "labels.h"
#include "layout.h"
#include "sampler.h"
#include "session.h"
#include "wait_place.h"

/* One place is for the synthetic root. */
#define MAX_WORDS (CONPROF_MAX_FRAMES + 1)

/* The word of a frame given as (code, byte offset); false with an exception. */
static bool
word_of(PyObject *frame, uint64_t *word)
{
    PyObject *code;
    int offset;
    if (!PyTuple_Check(frame) || !PyArg_ParseTuple(frame, "O!i", &PyCode_Type, &code, &offset)) {
        PyErr_SetString(PyExc_TypeError, "a frame is (code, byte offset)");
        return false;
    }
    uint64_t uid = conprof_registry_uid(&conprof_sampler.ring, (uintptr_t)code);
    if (uid == CONPROF_UID_NONE) {
        uid = CONPROF_UID_UNRESOLVED; /* no room in the ring */
    }
    uint64_t index = offset < 0 ? 0 : (uint64_t)offset / sizeof(_Py_CODEUNIT) + 1;
    *word = conprof_frame_word(uid, uid < CONPROF_UID_FIRST ? 0 : index);
    return true;
}

PyObject *
conprof_suspended_charge(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *frames, *cell;
    unsigned long long ns;
    int kind = CONPROF_KIND_IDLE;
    uint64_t words[MAX_WORDS];
    uint32_t count = 0;
    if (!PyArg_ParseTuple(args, "O!OK|i:charge_suspended", &PyList_Type, &frames, &cell, &ns,
                          &kind)) {
        return NULL;
    }
    if (!conprof_session_is_running()) {
        Py_RETURN_NONE;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(frames) && count < CONPROF_MAX_FRAMES; i++) {
        if (!word_of(PyList_GET_ITEM(frames, i), &words[count])) {
            return NULL;
        }
        count += words[count] >> CONPROF_FRAME_INSTRUCTION_BITS != CONPROF_UID_HIDDEN;
    }
    words[count++] = conprof_frame_word(CONPROF_UID_SUSPENDED, 0);
    struct conprof_marks marks = conprof_marks_none();
    if (Py_IS_TYPE(cell, conprof_labels_cell_type())) {
        /* With the GIL nobody changes it, and its set holds the record. */
        conprof_label_cell *labels = (conprof_label_cell *)cell;
        if (atomic_load(&labels->is_provisional)) {
            marks.cell_id = labels->id;
            atomic_store(&labels->was_sampled, true);
        }
        marks.record = atomic_load(&labels->record);
        if (atomic_load(&labels->has_trace)) {
            marks.trace = labels->trace;
        }
    }
    bool has_labels = marks.record != conprof_labels_empty() || marks.cell_id != 0;
    bool is_lock = conprof_wait_place_is_lock((enum conprof_wait_kind)kind, has_labels);
    conprof_session_charge_wall(words, count, &marks, ns, is_lock);
    Py_RETURN_NONE;
}

PyObject *
conprof_suspended_loops(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    PyObject *loops = PyList_New(0);
    PyThreadState *ts = PyInterpreterState_ThreadHead(PyInterpreterState_Main());
    for (; loops != NULL && ts != NULL; ts = PyThreadState_Next(ts)) {
        PyObject *loop = conprof_layout_loop(ts);
        if (loop != NULL && loop != Py_None && PyList_Append(loops, loop) < 0) {
            Py_CLEAR(loops);
        }
    }
    return loops;
}
