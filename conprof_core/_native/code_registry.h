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
 * cannot die while that thread stands in the handler. So what was read of a code object by any
 * thread is its own if its address is found here afterwards under the same uid.
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
    CONPROF_UID_UNSAMPLED = 12,
    CONPROF_UID_GC = 15, /* offset is the generation */
    CONPROF_UID_FIRST = 16,
};

/* Generations of the garbage collector that are told apart. */
#define CONPROF_GC_GENERATIONS 3u

/* Longest strings that are copied, in bytes: of a longer name the begin, of a longer file name the
 * end, and where something is missing stands an ellipsis. Paths that Linux opens fit. */
#define CONPROF_MAX_NAME_BYTES 4096u

/* Longest line table that the handler copies; longer ones are read by the drain, up to the second
 * bound. Beyond, or when the code has died before the drain came, every instruction of the code has
 * its first line: a table that is cut would give the lines behind the cut a wrong one. */
#define CONPROF_MAX_LINETABLE_BYTES 32768u
#define CONPROF_MAX_FAR_LINETABLE_BYTES (UINT32_C(1) << 20)

/* Words of a code record behind its header, then qualname, filename and line
 * table, each padded to whole words. A string word is kind << 32 | bytes; kind
 * is 1, 2 or 4 bytes a character as in PEP 393, and CONPROF_TEXT_IS_CUT. */
enum conprof_code_word {
    CONPROF_CODE_UID,
    CONPROF_CODE_FIRST_LINE,
    CONPROF_CODE_QUALNAME,
    CONPROF_CODE_FILENAME,
    CONPROF_CODE_LINETABLE, /* bytes in the record */
    CONPROF_CODE_ADDRESS,   /* of the code object, if its table is to be read by the drain, or 0 */
    CONPROF_CODE_FAR_TABLE, /* address of the bytes object that holds that table */
    CONPROF_CODE_FAR_BYTES, /* of that table */
    CONPROF_CODE_DATA,
};
#define CONPROF_TEXT_IS_CUT (UINT64_C(1) << 63)

/* SIGNAL-SAFE. The uid of a code address, registering it through `ring` when it
 * is new. CONPROF_UID_NONE when the address holds no code object (a stale frame)
 * or the ring is full. */
uint64_t conprof_registry_uid(struct conprof_ring *ring, uintptr_t code);

/* Session lock held, no GIL, not in a handler. Copies the line table that a code record names by
 * its address (the words of the same names); false when the code has died meanwhile. */
bool conprof_registry_read_table(uint64_t uid, uintptr_t code, uintptr_t table, void *to,
                                 size_t bytes);

/* GIL held. The code at this address dies or was just born. */
void conprof_registry_evict(uintptr_t code);

/* Session lock held. Forgets a uid, so that its code is copied again. */
void conprof_registry_forget(uint64_t uid);

/* Any thread; handlers may be active. Forgets everything, but for what a handler is entering. */
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
