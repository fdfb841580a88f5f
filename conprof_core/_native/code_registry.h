/* code_registry.h: which code objects are alive and known.
 *
 * Maps the address of a live code object to a uid, a number that is never
 * reused. The handler looks addresses up and never dereferences them; a code
 * seen for the first time is copied into the ring (CONPROF_RECORD_CODE) through
 * reads that cannot fault, and entered here.
 *
 * Invariant: an address found here belongs to a code object that is alive and
 * whose content was copied under that uid. It holds because every death of a
 * code object (and, where CPython tells, every birth) evicts its address before
 * the memory can be used again, and because a code object on a thread's stack
 * cannot die while that thread stands in the handler.
 *
 * Open addressing with at most CONPROF_REGISTRY_PROBES probes; lock-free.
 * Writers: handlers (insert), holders of the GIL (evict), the drain (forget).
 */
#ifndef CONPROF_CODE_REGISTRY_H
#define CONPROF_CODE_REGISTRY_H

#include <stdbool.h>
#include <stdint.h>

#include "ring.h"

#define CONPROF_REGISTRY_SLOTS 16384u
#define CONPROF_REGISTRY_PROBES 64u

/* uids below CONPROF_UID_FIRST name synthetic frames and states. */
enum {
    CONPROF_UID_NONE = 0,
    CONPROF_UID_HIDDEN = 1, /* interpreter plumbing such as the __init__ cleanup shim */
    CONPROF_UID_TRUNCATED = 2,
    CONPROF_UID_DRAIN = 3,
    CONPROF_UID_EXITED = 4,
    CONPROF_UID_UNWALKABLE = 5,
    CONPROF_UID_NATIVE = 6, /* offset is the thread-name id */
    CONPROF_UID_SUBINTERPRETER = 7,
    CONPROF_UID_UNRESOLVED = 8,
    CONPROF_UID_OVERFLOW = 9,
    CONPROF_UID_OFF_CPU = 10,
    CONPROF_UID_SUSPENDED = 11,
    CONPROF_UID_GC = 15, /* offset is the generation */
    CONPROF_UID_FIRST = 16,
};

/* Generations of the garbage collector that are told apart. */
#define CONPROF_GC_GENERATIONS 3u

/* Longest strings and line table that are copied, in bytes. A longer line table
 * is cut: instructions behind the cut get the line of the last one before it. */
#define CONPROF_MAX_NAME_BYTES 2048u
#define CONPROF_MAX_LINETABLE_BYTES 32768u

/* Words of a code record behind its header, then qualname, filename and line
 * table, each padded to whole words. A string word is kind << 32 | bytes; kind
 * is 1, 2 or 4 bytes a character as in PEP 393. */
enum conprof_code_word {
    CONPROF_CODE_UID,
    CONPROF_CODE_FIRST_LINE,
    CONPROF_CODE_QUALNAME,
    CONPROF_CODE_FILENAME,
    CONPROF_CODE_LINETABLE,
    CONPROF_CODE_DATA,
};

/* SIGNAL-SAFE. The uid of a code address, registering it through `ring` when it
 * is new. CONPROF_UID_NONE when the address holds no code object (a stale frame)
 * or the ring is full. */
uint64_t conprof_registry_uid(struct conprof_ring *ring, uintptr_t code);

/* GIL held. The code at this address dies or was just born. */
void conprof_registry_evict(uintptr_t code);

/* Session lock held. Forgets a uid, so that its code is copied again. */
void conprof_registry_forget(uint64_t uid);

/* No handler may be active. Forgets everything. */
void conprof_registry_reset(void);

/* Session lock held; handlers may be active. The same: what is being inserted may stay, and names
 * a code that lives. */
void conprof_registry_forget_all(void);

/* GIL held. Start and stop hearing of deaths. Install returns 0, or -1 with a
 * Python exception set. */
int conprof_registry_install(void);
void conprof_registry_uninstall(void);

/* Codes copied since the process started. */
uint64_t conprof_registry_copied(void);

#endif
