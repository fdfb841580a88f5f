/* remote.c: see remote.h. */
#include "remote.h"

#include "context.h"
#include "safemem.h"
#include "threads.h"

#define FRAME_HEAD offsetof(conprof_frame, localsplus)
/* What is read of a thread state to tell whose it is. */
#define STATE_HEAD (offsetof(PyThreadState, native_thread_id) + sizeof(unsigned long))
/* One chunk of CPython's is 16 KiB; of larger ones the rest is read frame by frame. */
#define COPIED_BYTES 16384u
/* How often the interpreter's list of thread states is read in one look: what threads
 * without a state cost. */
#define LIST_READS 8u

struct chunk {
    uintptr_t at;
    size_t size;
};

/* owner: holder of the session lock; all too large for a stack */
static struct chunk chunks[CONPROF_REMOTE_CHUNKS]; /* of the thread under way, newest first */
static uint32_t chunk_count;
static uintptr_t copied_from, copied_to; /* what `copied` holds */
static char copied[COPIED_BYTES];
static PyThreadState state; /* copy */
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
    if (at == 0 || !conprof_safe_read(&state, at, sizeof state) || state.interp != interpreter ||
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

/* ---- frames ---- */

static bool
read_chunks(void)
{
    uintptr_t at = (uintptr_t)state.datastack_chunk;
    copied_from = copied_to = 0;
    for (chunk_count = 0; at != 0 && chunk_count < CONPROF_REMOTE_CHUNKS; chunk_count++) {
        _PyStackChunk head;
        if (!conprof_safe_read(&head, at, offsetof(_PyStackChunk, data))) {
            return false;
        }
        chunks[chunk_count] = (struct chunk){at, head.size};
        at = (uintptr_t)head.previous;
    }
    uintptr_t top = (uintptr_t)state.datastack_top;
    if (chunk_count > 0 && top > chunks[0].at && top <= chunks[0].at + chunks[0].size) {
        uintptr_t from = top - chunks[0].at > COPIED_BYTES ? top - COPIED_BYTES : chunks[0].at;
        if (conprof_safe_read(copied, from, top - from)) {
            copied_from = from;
            copied_to = top;
        }
    }
    return true;
}

/* The first of the chunks from `from` on that holds `frame`; chunk_count: none. */
static uint32_t
find_chunk(uint32_t from, uintptr_t frame)
{
    for (; from < chunk_count; from++) {
        uintptr_t data = chunks[from].at + offsetof(_PyStackChunk, data);
        if (frame >= data && frame + FRAME_HEAD <= chunks[from].at + chunks[from].size) {
            break;
        }
    }
    return from;
}

static bool
read_frame(uintptr_t at, conprof_frame *frame)
{
    if (at >= copied_from && at + FRAME_HEAD <= copied_to) {
        __builtin_memcpy(frame, copied + (at - copied_from), FRAME_HEAD);
        return true;
    }
    return conprof_safe_read(frame, at, FRAME_HEAD);
}

/* Is the frame an interpreter's entry frame, or inside a generator? */
static bool
belongs_outside(uintptr_t at, const conprof_frame *frame)
{
    PyObject object;
    if (conprof_owner_is_entry(frame->owner)) {
        return true;
    }
    return frame->owner == CONPROF_OWNER_GENERATOR &&
           conprof_safe_read(&object, at - CONPROF_GENERATOR_FRAME_OFFSET, sizeof object) &&
           conprof_is_generator_type(Py_TYPE(&object));
}

/* As in conprof_unwind: the outermost frame lies where the first of a thread does. */
static bool
ends_at_root(uint32_t chunk, uintptr_t last)
{
    if (last != 0) {
        return chunk + 1 == chunk_count &&
               last == chunks[chunk].at + offsetof(_PyStackChunk, data) + sizeof(PyObject *);
    }
    return chunk_count == 0 ||
           (chunk_count == 1 &&
            (uintptr_t)state.datastack_top ==
                chunks[0].at + offsetof(_PyStackChunk, data) + sizeof(PyObject *));
}

static enum conprof_walk
walk(uintptr_t from, struct conprof_stack *out)
{
    uintptr_t at = 0, bottom = (uintptr_t)conprof_bottom_frame(&state), last = 0;
    uint32_t total = 0, steps = 0, chunk = 0;
    if (!conprof_safe_read(&at, conprof_current_frame_slot(&state, from), sizeof at) ||
        !read_chunks()) {
        return CONPROF_WALK_STALE;
    }
    for (; at != 0 && at != bottom && steps < CONPROF_MAX_STEPS; steps++) {
        conprof_frame frame;
        if (at % sizeof(void *) != 0 || at < CONPROF_GENERATOR_FRAME_OFFSET ||
            !read_frame(at, &frame)) {
            return CONPROF_WALK_STALE;
        }
        uint32_t holder = find_chunk(chunk, at);
        if (holder < chunk_count) {
            if (frame.owner != CONPROF_OWNER_THREAD ||
                (last != 0 && holder == chunk && at >= last)) {
                return CONPROF_WALK_STALE;
            }
            chunk = holder;
            last = at;
        }
        else if (!belongs_outside(at, &frame)) {
            return CONPROF_WALK_STALE;
        }
        if (!conprof_owner_is_entry(frame.owner)) {
            conprof_stack_append(out, total++, &frame);
        }
        at = (uintptr_t)frame.previous;
    }
    bool is_whole = at == 0 || at == bottom;
    if (is_whole && !ends_at_root(chunk, last)) {
        return CONPROF_WALK_STALE;
    }
    conprof_stack_finish(out, total, is_whole);
    return total == 0 ? CONPROF_WALK_EMPTY : CONPROF_WALK_OK;
}

/* ---- labels ---- */

static void
read_labels(struct conprof_remote *out)
{
    uint64_t id;
    bool is_provisional;
    uintptr_t cell = conprof_context_remote_cell(&state);
    if (cell == 0 || !conprof_safe_read(&id, cell + offsetof(conprof_label_cell, id), sizeof id) ||
        !conprof_safe_read(&is_provisional, cell + offsetof(conprof_label_cell, is_provisional),
                           sizeof is_provisional)) {
        return;
    }
    if (is_provisional) {
        /* Before the record and the trace are read: who changes them then looks here. */
        conprof_labels_mark_looked(id);
        out->marks.cell_id = id;
    }
    bool has_trace;
    struct conprof_trace trace;
    if (conprof_safe_read(&has_trace, cell + offsetof(conprof_label_cell, has_trace),
                          sizeof has_trace) &&
        has_trace &&
        conprof_safe_read(&trace, cell + offsetof(conprof_label_cell, trace), sizeof trace)) {
        out->marks.trace = trace;
    }
    struct conprof_label_record *record;
    if (conprof_safe_read(&record, cell + offsetof(conprof_label_cell, record), sizeof record) &&
        conprof_labels_is_known(record)) {
        out->marks.record = record;
    }
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
    result = walk(*hint, &out->stack);
    if (result != CONPROF_WALK_STALE) {
        read_labels(out);
        out->version = read_version();
    }
    return result;
}
