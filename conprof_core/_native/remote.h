/* remote.h: the stack and the labels of another thread, read while it may run.
 *
 * Invariant: nothing of the other thread is dereferenced. All that belongs to it (its
 * state, chunks, frames, context, label cell) is copied by the kernel, so memory that
 * vanishes makes a read fail and memory that is reused gives values that are checked or
 * thrown away. What was read is *true* only if the thread has not run from before the
 * first read until after the last, which its CPU clock tells: the caller compares.
 *
 * Why that is enough. Frames, chunks, thread state and context of a thread are changed and
 * freed by this thread alone. So, when it has not run, all of it stood still and was
 * alive, codes and label cell included. A label record can be changed by others
 * (bind() in another thread), but is freed under the session lock only, which the caller
 * holds: the record that a live cell named at any moment since stays.
 */
#ifndef CONPROF_REMOTE_H
#define CONPROF_REMOTE_H

#include "labels.h"
#include "unwind.h"

struct conprof_remote {
    struct conprof_stack stack;
    struct conprof_marks marks; /* the record is not to be touched before the clock is compared */
    uint64_t version;           /* of the context it is in, if that was entered; else 0 */
};

/* Session lock held; no GIL. Reads what thread `tid` stands at. `hint` remembers where its
 * state lies; 0 at first. CONPROF_WALK_EMPTY: no Python code, and then `marks` are
 * those of no cell. */
enum conprof_walk conprof_remote_walk(PyInterpreterState *interpreter, pid_t tid, uintptr_t *hint,
                                      struct conprof_remote *out);

/* Session lock held; no GIL. Only the version, also of a thread that runs: of some moment
 * during the call. False when it cannot be read. */
bool conprof_remote_version(PyInterpreterState *interpreter, pid_t tid, uintptr_t *hint,
                            uint64_t *version);

/* Session lock held. A new look: thread states that were not found may be there now. */
void conprof_remote_renew(void);

#endif
