/* code_registry.c: see code_registry.h. */
#include "code_registry.h"

#include <stdatomic.h>

#include "compat.h"
#include "safemem.h"

/* Keys that are no address. */
#define KEY_EMPTY ((uintptr_t)0)
#define KEY_EVICTED ((uintptr_t)1) /* may be reused, does not end a probe */
#define KEY_CLAIMED ((uintptr_t)2) /* an insert is under way */

struct slot {
    _Atomic uintptr_t key; /* written by: handlers, GIL holders, drain */
    _Atomic uint64_t uid;  /* written by: the handler that claimed the key */
};

static struct slot slots[CONPROF_REGISTRY_SLOTS];
static _Atomic uint64_t next_uid = CONPROF_UID_FIRST; /* written by: handlers */

/* SIGNAL-SAFE. */
static inline uint32_t
home_of(uintptr_t code)
{
    uint64_t mixed = (uint64_t)(code >> 4) * UINT64_C(0x9E3779B97F4A7C15);
    return (uint32_t)(mixed >> 40) & (CONPROF_REGISTRY_SLOTS - 1);
}

/* SIGNAL-SAFE. */
static uint64_t
find(uintptr_t code)
{
    uint32_t at = home_of(code);
    for (uint32_t i = 0; i < CONPROF_REGISTRY_PROBES; i++) {
        struct slot *slot = &slots[(at + i) & (CONPROF_REGISTRY_SLOTS - 1)];
        uintptr_t key = atomic_load_explicit(&slot->key, memory_order_acquire);
        if (key == code) {
            return atomic_load_explicit(&slot->uid, memory_order_relaxed);
        }
        if (key == KEY_EMPTY) {
            break;
        }
    }
    return CONPROF_UID_NONE;
}

/* SIGNAL-SAFE. Two threads may insert the same code at once; both uids then name
 * the same content, and eviction removes both. When all probed slots are taken
 * the uid serves this one sample. */
static void
insert(uintptr_t code, uint64_t uid)
{
    uint32_t at = home_of(code);
    for (uint32_t i = 0; i < CONPROF_REGISTRY_PROBES; i++) {
        struct slot *slot = &slots[(at + i) & (CONPROF_REGISTRY_SLOTS - 1)];
        uintptr_t key = atomic_load_explicit(&slot->key, memory_order_relaxed);
        if ((key == KEY_EMPTY || key == KEY_EVICTED) &&
            atomic_compare_exchange_strong(&slot->key, &key, KEY_CLAIMED)) {
            atomic_store_explicit(&slot->uid, uid, memory_order_relaxed);
            atomic_store_explicit(&slot->key, code, memory_order_release);
            return;
        }
    }
}

/* A string as the copy needs it: where its characters are, and how wide. */
struct text {
    uintptr_t data;
    uint32_t bytes;
    uint32_t kind;
    bool is_cut;
};

/* SIGNAL-SAFE. `keeps_end`: of a long one the end is copied, not the begin. */
static __attribute__((noinline)) bool
read_text(uintptr_t object, bool keeps_end, struct text *text)
{
    PyASCIIObject head;
    if (object == 0 || !conprof_safe_read(&head, object, sizeof head) || head.length < 0 ||
        !head.state.compact) {
        return false;
    }
    uint32_t kind = head.state.kind;
    if (kind != 1 && kind != 2 && kind != 4) {
        return false;
    }
    size_t bytes = (size_t)head.length * kind, skipped = 0;
    text->is_cut = bytes > CONPROF_MAX_NAME_BYTES;
    if (text->is_cut) {
        skipped = keeps_end ? bytes - CONPROF_MAX_NAME_BYTES : 0;
        bytes = CONPROF_MAX_NAME_BYTES;
    }
    text->data = object + skipped +
                 (head.state.ascii ? sizeof(PyASCIIObject) : sizeof(PyCompactUnicodeObject));
    text->bytes = (uint32_t)bytes;
    text->kind = kind;
    return true;
}

/* What the copy needs of a code object. */
struct facts {
    uintptr_t name, qualname, filename, table;
    size_t table_bytes;
    uint32_t first_line;
};

/* SIGNAL-SAFE. Not inlined: the copies of whole objects shall be off the stack again when the
 * rest is done. */
static __attribute__((noinline)) bool
read_code(uintptr_t code, struct facts *facts)
{
    /* Only the part before the bytecode is copied. */
    union {
        PyCodeObject object;
        char bytes[CONPROF_CODE_FIRST_INSTRUCTION];
    } head;
    if ((code & 7) != 0 || !conprof_safe_read(head.bytes, code, CONPROF_CODE_FIRST_INSTRUCTION)) {
        return false;
    }
    PyObject *as_object = (PyObject *)&head.object;
    Py_ssize_t refcount = Py_REFCNT(as_object);
    /* A freed block has 0 or the allocator's next pointer in this place. */
    if (Py_TYPE(as_object) != &PyCode_Type || refcount <= 0 || refcount > (Py_ssize_t)UINT32_MAX) {
        return false;
    }
    *facts = (struct facts){.name = (uintptr_t)head.object.co_name,
                            .qualname = (uintptr_t)head.object.co_qualname,
                            .filename = (uintptr_t)head.object.co_filename,
                            .table = (uintptr_t)head.object.co_linetable,
                            .first_line = (uint32_t)head.object.co_firstlineno};
    return true;
}

/* SIGNAL-SAFE. */
static __attribute__((noinline)) bool
read_bytes_size(uintptr_t object, size_t *size)
{
    PyVarObject head;
    if (object == 0 || !conprof_safe_read(&head, object, sizeof head) || head.ob_size < 0 ||
        Py_TYPE((PyObject *)&head) != &PyBytes_Type) {
        return false;
    }
    *size = (size_t)head.ob_size;
    return true;
}

static inline uint32_t
words_for(uint32_t bytes)
{
    return (bytes + 7) / 8;
}

/* SIGNAL-SAFE. */
static uint64_t
text_word(const struct text *text)
{
    return (text->is_cut ? CONPROF_TEXT_IS_CUT : 0) | (uint64_t)text->kind << 32 | text->bytes;
}

/* SIGNAL-SAFE. Copies a code object into the ring and enters it; returns its new uid, or
 * CONPROF_UID_NONE when the memory is no code object or there is no room. */
static uint64_t
copy_code(struct conprof_ring *ring, uintptr_t code)
{
    struct facts facts;
    struct text qualname, filename;
    if (!read_code(code, &facts)) {
        return CONPROF_UID_NONE;
    }
    if (facts.filename == facts.name) {
        /* The shim that CPython runs below __init__ has no source. */
        insert(code, CONPROF_UID_HIDDEN);
        return CONPROF_UID_HIDDEN;
    }
    if (!read_text(facts.qualname, false, &qualname) ||
        !read_text(facts.filename, true, &filename) ||
        !read_bytes_size(facts.table, &facts.table_bytes)) {
        return CONPROF_UID_NONE;
    }
    bool is_far = facts.table_bytes > CONPROF_MAX_LINETABLE_BYTES;
    uint32_t table_bytes = is_far ? 0 : (uint32_t)facts.table_bytes;
    uint32_t at_qualname = 1 + CONPROF_CODE_DATA;
    uint32_t at_filename = at_qualname + words_for(qualname.bytes);
    uint32_t at_table = at_filename + words_for(filename.bytes);
    struct conprof_ring_slot slot;
    if (!conprof_ring_reserve(ring, at_table + words_for(table_bytes), &slot)) {
        return CONPROF_UID_NONE;
    }
    uint64_t uid = atomic_fetch_add_explicit(&next_uid, 1, memory_order_relaxed);
    conprof_ring_put(&slot, 1 + CONPROF_CODE_UID, uid);
    conprof_ring_put(&slot, 1 + CONPROF_CODE_FIRST_LINE, facts.first_line);
    conprof_ring_put(&slot, 1 + CONPROF_CODE_QUALNAME, text_word(&qualname));
    conprof_ring_put(&slot, 1 + CONPROF_CODE_FILENAME, text_word(&filename));
    conprof_ring_put(&slot, 1 + CONPROF_CODE_LINETABLE, table_bytes);
    conprof_ring_put(&slot, 1 + CONPROF_CODE_ADDRESS, is_far ? code : 0);
    conprof_ring_put(&slot, 1 + CONPROF_CODE_FAR_TABLE, is_far ? facts.table : 0);
    conprof_ring_put(&slot, 1 + CONPROF_CODE_FAR_BYTES, is_far ? facts.table_bytes : 0);
    bool copied = conprof_ring_copy(&slot, at_qualname, qualname.data, qualname.bytes) &&
                  conprof_ring_copy(&slot, at_filename, filename.data, filename.bytes) &&
                  conprof_ring_copy(&slot, at_table, facts.table + offsetof(PyBytesObject, ob_sval),
                                    table_bytes);
    if (copied) {
        /* Before it is published: the drain looks it up to see whether it is alive. A sample that
         * finds it here meanwhile comes to stand behind it in the ring all the same. */
        insert(code, uid);
    }
    conprof_ring_publish(&slot, copied ? CONPROF_RECORD_CODE : CONPROF_RECORD_PAD);
    return copied ? uid : CONPROF_UID_NONE;
}

bool
conprof_registry_read_table(uint64_t uid, uintptr_t code, uintptr_t table, void *to, size_t bytes)
{
    size_t size;
    if (!conprof_safe_read(to, table + offsetof(PyBytesObject, ob_sval), bytes) ||
        !read_bytes_size(table, &size) || size != bytes) {
        return false;
    }
    /* Who lets a code die evicts it before its memory changes: what was read is the code's if it
     * is still here. */
    atomic_thread_fence(memory_order_seq_cst);
    return find(code) == uid;
}

uint64_t
conprof_registry_uid(struct conprof_ring *ring, uintptr_t code)
{
    uint64_t uid = find(code);
    return uid != CONPROF_UID_NONE ? uid : copy_code(ring, code);
}

void
conprof_registry_evict(uintptr_t code)
{
    uint32_t at = home_of(code);
    for (uint32_t i = 0; i < CONPROF_REGISTRY_PROBES; i++) {
        struct slot *slot = &slots[(at + i) & (CONPROF_REGISTRY_SLOTS - 1)];
        uintptr_t key = atomic_load_explicit(&slot->key, memory_order_relaxed);
        if (key == KEY_EMPTY) {
            break;
        }
        if (key == code) {
            atomic_store_explicit(&slot->key, KEY_EVICTED, memory_order_release);
        }
    }
    /* Before the memory changes (conprof_registry_read_table). */
    atomic_thread_fence(memory_order_seq_cst);
}

void
conprof_registry_forget(uint64_t uid)
{
    for (uint32_t i = 0; i < CONPROF_REGISTRY_SLOTS; i++) {
        uintptr_t key = atomic_load_explicit(&slots[i].key, memory_order_acquire);
        if (key > KEY_CLAIMED && atomic_load_explicit(&slots[i].uid, memory_order_relaxed) == uid) {
            atomic_compare_exchange_strong(&slots[i].key, &key, KEY_EVICTED);
        }
    }
}

/* A place that was ever used is never empty again: an eviction that is under way, or comes later,
 * would end its search there and leave what a handler has entered behind it meanwhile. */
void
conprof_registry_reset(void)
{
    for (uint32_t i = 0; i < CONPROF_REGISTRY_SLOTS; i++) {
        uintptr_t key = atomic_load_explicit(&slots[i].key, memory_order_acquire);
        /* Untouched pages stay untouched, and who has claimed a place will enter his code. */
        if (key > KEY_CLAIMED) {
            atomic_compare_exchange_strong(&slots[i].key, &key, KEY_EVICTED);
        }
    }
}

void
conprof_registry_forget_all(void)
{
    for (uint32_t i = 0; i < CONPROF_REGISTRY_SLOTS; i++) {
        uintptr_t key = atomic_load_explicit(&slots[i].key, memory_order_acquire);
        /* Not KEY_EMPTY, which would end the probes of entries made meanwhile: their deaths
         * would not be heard of. Not KEY_CLAIMED: two would write to the slot. */
        if (key > KEY_CLAIMED) {
            atomic_compare_exchange_strong(&slots[i].key, &key, KEY_EVICTED);
        }
    }
}

uint64_t
conprof_registry_copied(void)
{
    return atomic_load_explicit(&next_uid, memory_order_relaxed) - CONPROF_UID_FIRST;
}

#if CONPROF_HAVE_CODE_WATCHER

static int watcher = -1; /* written by: install and uninstall, GIL held */

/* GIL held. Births evict as well: an address entered by mistake for a block that
 * was free must not outlive its next use. */
static int
on_code_event(PyCodeEvent event, PyCodeObject *code)
{
    (void)event;
    conprof_registry_evict((uintptr_t)code);
    return 0;
}

int
conprof_registry_install(void)
{
    if (watcher < 0) {
        watcher = PyCode_AddWatcher(on_code_event);
    }
    return watcher < 0 ? -1 : 0;
}

void
conprof_registry_uninstall(void)
{
    if (watcher >= 0) {
        if (PyCode_ClearWatcher(watcher) < 0) {
            PyErr_Clear();
        }
        watcher = -1;
    }
}

#else

static destructor original_dealloc; /* written by: install and uninstall, GIL held */

/* GIL held. */
static void
on_code_dealloc(PyObject *code)
{
    conprof_registry_evict((uintptr_t)code);
    original_dealloc(code);
}

int
conprof_registry_install(void)
{
    if (original_dealloc == NULL) {
        original_dealloc = PyCode_Type.tp_dealloc;
        PyCode_Type.tp_dealloc = on_code_dealloc;
    }
    return 0;
}

void
conprof_registry_uninstall(void)
{
    /* If somebody hooked on top of us, ours stays in the chain: it is harmless. */
    if (original_dealloc != NULL && PyCode_Type.tp_dealloc == on_code_dealloc) {
        PyCode_Type.tp_dealloc = original_dealloc;
        original_dealloc = NULL;
    }
}

#endif
