/* remote.c: see remote.h. */
#include "remote.h"

#include "capture.h"
#include "context.h"
#include "far.h"
#include "safemem.h"
#include "state.h"
#include "threads.h"

/* What is read of a thread state to tell whose it is. */
#define STATE_HEAD (offsetof(PyThreadState, native_thread_id) + sizeof(unsigned long))
/* How often the interpreter's list of thread states is read in one look: what threads
 * without a state cost. */
#define LIST_READS 8u

/* owner: holder of the session lock; all too large for a stack */
static struct conprof_far far; /* of the thread under way */
static PyThreadState state;    /* copy */
static struct {
    pid_t tid;
    uintptr_t at;
} states[CONPROF_MAX_THREADS]; /* the interpreter's list, when it was last read */
static uint32_t state_count;
static bool states_are_new, states_are_whole;
static uint32_t list_reads_left;

void
conprof_remote_renew(void)
{
    states_are_new = false;
    list_reads_left = LIST_READS;
}

/* ---- the thread's state ---- */

static void
read_list(PyInterpreterState *interpreter)
{
    uintptr_t at = (uintptr_t)PyInterpreterState_ThreadHead(interpreter);
    for (state_count = 0; at != 0 && state_count < CONPROF_MAX_THREADS; state_count++) {
        PyThreadState head;
        if (!conprof_safe_read(&head, at, STATE_HEAD) || head.interp != interpreter) {
            break; /* the list changes under the walk */
        }
        states[state_count].tid = (pid_t)head.native_thread_id;
        states[state_count].at = at;
        at = (uintptr_t)head.next;
    }
    states_are_new = true;
    states_are_whole = at == 0;
    list_reads_left--;
}

/* Copies a thread state that is in the interpreter's list now, and the thread's own. */
static bool
copy_state(PyInterpreterState *interpreter, uintptr_t at, pid_t tid)
{
    uintptr_t link = 0;
    if (at == 0 || !conprof_state_copy(&state, at) || state.interp != interpreter ||
        (pid_t)state.native_thread_id != tid) {
        return false;
    }
    if (state.prev == NULL) {
        link = (uintptr_t)PyInterpreterState_ThreadHead(interpreter);
    }
    else if (!conprof_safe_read(&link, (uintptr_t)state.prev + offsetof(PyThreadState, next),
                                sizeof link)) {
        return false;
    }
    return link == at;
}

/* CONPROF_WALK_OK: `state` is the thread's. A list read earlier may name the thread, but only
 * one that is read now can tell that it has no state: it may have got it since. */
static enum conprof_walk
find_state(PyInterpreterState *interpreter, pid_t tid, uintptr_t *hint)
{
    if (copy_state(interpreter, *hint, tid)) {
        return CONPROF_WALK_OK;
    }
    *hint = 0;
    for (bool was_read_now = false; !was_read_now; states_are_new = was_read_now) {
        if (!states_are_new) {
            if (list_reads_left == 0) {
                return CONPROF_WALK_STALE;
            }
            read_list(interpreter);
            was_read_now = true;
        }
        for (uint32_t i = 0; i < state_count; i++) {
            if (states[i].tid == tid && copy_state(interpreter, states[i].at, tid)) {
                *hint = states[i].at;
                return CONPROF_WALK_OK;
            }
        }
    }
    return states_are_whole ? CONPROF_WALK_EMPTY : CONPROF_WALK_STALE;
}

/* CPython raises `context_ver` whenever a context is entered or left. The context that a
 * thread has by itself was never entered. */
static uint64_t
read_version(void)
{
    return conprof_context_remote_is_entered(&state) ? state.context_ver : 0;
}

bool
conprof_remote_version(PyInterpreterState *interpreter, pid_t tid, uintptr_t *hint,
                       uint64_t *version)
{
    if (find_state(interpreter, tid, hint) != CONPROF_WALK_OK) {
        return false;
    }
    *version = read_version();
    return true;
}

enum conprof_walk
conprof_remote_walk(PyInterpreterState *interpreter, pid_t tid, uintptr_t *hint,
                    struct conprof_remote *out)
{
    out->marks = conprof_marks_none();
    out->version = 0;
    enum conprof_walk result = find_state(interpreter, tid, hint);
    if (result != CONPROF_WALK_OK) {
        return result;
    }
    result = conprof_far_walk(&far, &state, *hint, &out->stack);
    if (result != CONPROF_WALK_STALE) {
        out->marks = conprof_capture_far_marks(&state);
        if (!conprof_labels_is_known(out->marks.record)) {
            out->marks.record = conprof_labels_empty();
        }
        out->version = read_version();
    }
    return result;
}
