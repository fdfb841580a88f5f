/* label_records.c: interned label records and late bindings. See labels.h. */
#include <stdlib.h>
#include <string.h>

#include "hash.h"
#include "label_records.h"
#include "lock.h"
#include "safemem.h"

#define TABLE_SLOTS (CONPROF_MAX_LABEL_RECORDS * 2)
#define BINDING_SLOTS (CONPROF_MAX_BINDINGS * 2)

/* One bit a cell id, folded. */
#define LOOKED_BITS 65536u

struct binding {
    uint64_t cell_id;
    struct conprof_label_record *record; /* counted */
};

static _Atomic uint64_t looked[LOOKED_BITS / 64]; /* written by: holder of the session lock */

/* owner: holder of the session lock. At most half full, with linear probing: a record lies between
 * its home, the place of its hash, and the next empty place. Who leaves closes the gap, so that
 * places once used do not make every search longer: it is done with lock and GIL held. */
static struct conprof_label_record *table[TABLE_SLOTS];

/* owner: holder of the session lock */
static struct conprof_label_record *limbo;
static struct binding *bindings; /* BINDING_SLOTS of them, or NULL before first use */
static uint32_t binding_count;
static uint32_t alive;
static uint64_t refused;

/* immutable after conprof_label_records_init */
static struct conprof_label_record *empty_record, *overflow_record;

static uint64_t
hash_of(const struct conprof_label *labels, uint32_t count)
{
    uint64_t hash = count;
    for (uint32_t i = 0; i < count; i++) {
        hash = conprof_hash_bytes(hash, labels[i].key, labels[i].key_bytes);
        hash = conprof_hash_bytes(hash, labels[i].value, labels[i].value_bytes);
    }
    return hash;
}

static bool
same(const struct conprof_label_record *record, uint64_t hash, const struct conprof_label *labels,
     uint32_t count)
{
    if (record->hash != hash || record->count != count) {
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        const struct conprof_label *a = &record->labels[i], *b = &labels[i];
        if (a->key_bytes != b->key_bytes || a->value_bytes != b->value_bytes ||
            memcmp(a->key, b->key, a->key_bytes) != 0 ||
            memcmp(a->value, b->value, a->value_bytes) != 0) {
            return false;
        }
    }
    return true;
}

static struct conprof_label_record *
new_record(uint64_t hash, const struct conprof_label *labels, uint32_t count)
{
    size_t bytes = 0;
    for (uint32_t i = 0; i < count; i++) {
        bytes += labels[i].key_bytes + labels[i].value_bytes;
    }
    struct conprof_label_record *record =
        malloc(sizeof *record + count * sizeof(struct conprof_label) + bytes);
    if (record == NULL) {
        return NULL;
    }
    *record = (struct conprof_label_record){.count = count, .hash = hash};
    char *text = (char *)&record->labels[count];
    for (uint32_t i = 0; i < count; i++) {
        record->labels[i] = labels[i];
        memcpy(text, labels[i].key, labels[i].key_bytes);
        record->labels[i].key = text;
        text += labels[i].key_bytes;
        memcpy(text, labels[i].value, labels[i].value_bytes);
        record->labels[i].value = text;
        text += labels[i].value_bytes;
    }
    return record;
}

bool
conprof_label_records_init(void)
{
    static const struct conprof_label overflow = {"conprof.overflow", "labels", 16, 6};
    if (empty_record == NULL) {
        empty_record = new_record(hash_of(NULL, 0), NULL, 0);
        overflow_record = new_record(hash_of(&overflow, 1), &overflow, 1);
        if (empty_record == NULL || overflow_record == NULL) {
            return false;
        }
        empty_record->is_permanent = overflow_record->is_permanent = true;
    }
    return true;
}

struct conprof_label_record *
conprof_labels_empty(void)
{
    return empty_record;
}

struct conprof_label_record *
conprof_labels_overflow(void)
{
    return overflow_record;
}

static uint32_t
home_of(uint64_t hash)
{
    return (uint32_t)hash % TABLE_SLOTS;
}

/* Session lock held. The one record of these pairs, counted; NULL when there is no room. */
static struct conprof_label_record *
intern(const struct conprof_label *labels, uint32_t count)
{
    uint64_t hash = hash_of(labels, count);
    struct conprof_label_record *record = NULL;
    if (count == 0) {
        record = empty_record;
    }
    else if (same(overflow_record, hash, labels, count)) {
        record = overflow_record; /* spelled out: content names one record all the same */
    }
    uint32_t at = home_of(hash);
    while (record == NULL && table[at] != NULL) {
        if (same(table[at], hash, labels, count)) {
            record = table[at];
        }
        at = (at + 1) % TABLE_SLOTS;
    }
    if (record == NULL && alive < CONPROF_MAX_LABEL_RECORDS) {
        record = new_record(hash, labels, count);
        if (record != NULL) {
            table[at] = record;
            alive++;
        }
    }
    if (record == NULL) {
        refused++;
        return NULL;
    }
    conprof_labels_acquire(record);
    return record;
}

struct conprof_label_record *
conprof_label_records_intern(const struct conprof_label *labels, uint32_t count)
{
    conprof_lock();
    struct conprof_label_record *record = intern(labels, count);
    if (record == NULL) {
        record = overflow_record;
        conprof_labels_acquire(record);
    }
    conprof_unlock();
    return record;
}

struct conprof_label_record *
conprof_labels_extend(const struct conprof_label_record *record, const struct conprof_label *more)
{
    /* owner: holder of the session lock, who may be a thread of the application's */
    static struct conprof_label labels[CONPROF_MAX_LABELS + 1];
    uint32_t count = 0;
    bool is_placed = false;
    for (uint32_t i = 0; i < record->count && i < CONPROF_MAX_LABELS; i++) {
        const struct conprof_label *own = &record->labels[i];
        uint32_t common = own->key_bytes < more->key_bytes ? own->key_bytes : more->key_bytes;
        int order = memcmp(own->key, more->key, common);
        if (order == 0) {
            order = (own->key_bytes > more->key_bytes) - (own->key_bytes < more->key_bytes);
        }
        if (order >= 0 && !is_placed) {
            labels[count++] = *more;
            is_placed = true;
        }
        if (order != 0) {
            labels[count++] = *own;
        }
    }
    if (!is_placed) {
        labels[count++] = *more;
    }
    return intern(labels, count);
}

void
conprof_labels_acquire(struct conprof_label_record *record)
{
    record->refs++;
}

/* Session lock held. Whoever lies behind the gap and would be cut off by it from its home moves
 * into it. */
static void
remove_from_table(const struct conprof_label_record *record)
{
    uint32_t hole = home_of(record->hash);
    while (table[hole] != record) {
        hole = (hole + 1) % TABLE_SLOTS;
    }
    for (uint32_t at = (hole + 1) % TABLE_SLOTS; table[at] != NULL; at = (at + 1) % TABLE_SLOTS) {
        uint32_t from_home = (at - home_of(table[at]->hash)) % TABLE_SLOTS;
        if (from_home >= (at - hole) % TABLE_SLOTS) {
            table[hole] = table[at];
            hole = at;
        }
    }
    table[hole] = NULL;
}

void
conprof_labels_release(struct conprof_label_record *record)
{
    if (--record->refs == 0 && !record->is_permanent && !record->is_in_limbo) {
        record->is_in_limbo = true;
        record->next_in_limbo = limbo;
        limbo = record;
    }
}

void
conprof_labels_sweep(void)
{
    struct conprof_label_record *record = limbo;
    limbo = NULL;
    while (record != NULL) {
        struct conprof_label_record *next = record->next_in_limbo;
        record->is_in_limbo = false;
        /* Otherwise a sample in the ring, or the same labels again, revived it. */
        if (record->refs == 0) {
            remove_from_table(record);
            free(record);
            alive--;
        }
        record = next;
    }
}

void
conprof_label_records_bind(uint64_t cell_id, struct conprof_label_record *record)
{
    conprof_lock();
    if (bindings == NULL) {
        bindings = calloc(BINDING_SLOTS, sizeof *bindings);
    }
    if (bindings == NULL || binding_count >= CONPROF_MAX_BINDINGS) {
        refused++;
    }
    else {
        uint32_t at = (uint32_t)(conprof_hash_word(0, cell_id) % BINDING_SLOTS);
        while (bindings[at].cell_id != 0 && bindings[at].cell_id != cell_id) {
            at = (at + 1) % BINDING_SLOTS;
        }
        conprof_labels_acquire(record);
        if (bindings[at].cell_id == cell_id) {
            conprof_labels_release(bindings[at].record);
        }
        else {
            binding_count++;
        }
        bindings[at] = (struct binding){cell_id, record};
    }
    conprof_unlock();
}

struct conprof_label_record *
conprof_labels_binding(uint64_t cell_id)
{
    if (binding_count == 0) {
        return NULL;
    }
    uint32_t at = (uint32_t)(conprof_hash_word(0, cell_id) % BINDING_SLOTS);
    while (bindings[at].cell_id != 0) {
        if (bindings[at].cell_id == cell_id) {
            return bindings[at].record;
        }
        at = (at + 1) % BINDING_SLOTS;
    }
    return NULL;
}

void
conprof_labels_reset_bindings(void)
{
    for (uint32_t i = 0; binding_count > 0 && i < BINDING_SLOTS; i++) {
        if (bindings[i].cell_id != 0) {
            conprof_labels_release(bindings[i].record);
            bindings[i].cell_id = 0;
            binding_count--;
        }
    }
    for (uint32_t i = 0; i < LOOKED_BITS / 64; i++) {
        atomic_store_explicit(&looked[i], 0, memory_order_relaxed);
    }
}

bool
conprof_labels_is_known(const struct conprof_label_record *record)
{
    uint64_t hash;
    if (record == empty_record || record == overflow_record) {
        return true;
    }
    if (!conprof_safe_read(&hash, (uintptr_t)record + offsetof(struct conprof_label_record, hash),
                           sizeof hash)) {
        return false;
    }
    uint32_t at = home_of(hash);
    while (table[at] != NULL && table[at] != record) {
        at = (at + 1) % TABLE_SLOTS;
    }
    return table[at] != NULL;
}

void
conprof_labels_mark_looked(uint64_t cell_id)
{
    uint32_t bit = (uint32_t)cell_id % LOOKED_BITS;
    atomic_fetch_or(&looked[bit / 64], UINT64_C(1) << bit % 64);
}

bool
conprof_labels_was_looked(uint64_t cell_id)
{
    uint32_t bit = (uint32_t)cell_id % LOOKED_BITS;
    return atomic_load(&looked[bit / 64]) >> bit % 64 & 1;
}

uint32_t
conprof_labels_alive(void)
{
    return alive;
}

uint64_t
conprof_labels_refused(void)
{
    return refused;
}
