/* aggregate.c: see aggregate.h. */
#include "aggregate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "code_registry.h"
#include "hash.h"
#include "lock.h"
#include "sampler.h"

#define CACHE_SLOTS 4096u
#define NO_INDEX UINT32_MAX
#define OVERFLOW_WORD ((uint64_t)CONPROF_UID_OVERFLOW << CONPROF_FRAME_INSTRUCTION_BITS)

/* owner: holder of the session lock. Frame word -> location of the open window. */
static struct {
    uint64_t word;
    uint32_t location;
} cache[CACHE_SLOTS];

/* owner: holder of the session lock. Codes of synthetic frames, made once. */
static struct conprof_code *synthetic[CONPROF_UID_FIRST];
static struct conprof_code *native_codes[CONPROF_MAX_THREAD_NAMES];
static struct conprof_code *gc_codes[CONPROF_GC_GENERATIONS];

const char *const conprof_column_names[CONPROF_COLUMN_COUNT] = {
    [CONPROF_COLUMN_SAMPLES] = "samples",
    [CONPROF_COLUMN_CPU_NS] = "cpu_ns",
    [CONPROF_COLUMN_WALL_SAMPLES] = "wall_samples",
    [CONPROF_COLUMN_WALL_NS] = "wall_ns",
    [CONPROF_COLUMN_GIL_WAIT_NS] = "gil_wait_ns",
    [CONPROF_COLUMN_LOCK_WAIT_NS] = "lock_wait_ns",
    [CONPROF_COLUMN_LOOP_BLOCKS] = "loop_blocks",
    [CONPROF_COLUMN_LOOP_BLOCKED_NS] = "loop_blocked_ns",
    [CONPROF_COLUMN_GC_PAUSES] = "gc_pauses",
    [CONPROF_COLUMN_GC_PAUSE_NS] = "gc_pause_ns",
    [CONPROF_COLUMN_ALLOC_OBJECTS] = "alloc_objects",
    [CONPROF_COLUMN_ALLOC_BYTES] = "alloc_bytes",
    [CONPROF_COLUMN_INUSE_OBJECTS] = "inuse_objects",
    [CONPROF_COLUMN_INUSE_BYTES] = "inuse_bytes",
    [CONPROF_COLUMN_TASKS] = "tasks",
};

struct conprof_window *
conprof_window_new(uint32_t max_stacks, int64_t start_ns)
{
    struct conprof_window *window = calloc(1, sizeof *window);
    if (window != NULL) {
        window->max_stacks = max_stacks;
        window->start_ns = start_ns;
    }
    return window;
}

void
conprof_window_end(struct conprof_window *window, uint64_t now_ns)
{
    window->end_ns = window->start_ns + (int64_t)(now_ns - window->began_ns);
}

void
conprof_window_begin(struct conprof_window *window, const struct conprof_window *before)
{
    int64_t apart = before == NULL ? CONPROF_SAME_CLOCK_NS : window->start_ns - before->end_ns;
    if (apart > -CONPROF_SAME_CLOCK_NS && apart < CONPROF_SAME_CLOCK_NS) {
        window->start_ns = before->end_ns;
    }
}

void
conprof_window_free(struct conprof_window *window)
{
    conprof_lock();
    conprof_window_free_locked(window);
    conprof_unlock();
}

void
conprof_window_free_locked(struct conprof_window *window)
{
    if (window == NULL) {
        return;
    }
    for (uint32_t i = 0; i < window->location_count; i++) {
        conprof_code_release(window->locations[i].code);
    }
    for (uint32_t i = 0; i < window->row_count; i++) {
        conprof_labels_release(window->rows[i].record);
    }
    free(window->locations);
    free(window->stack_words);
    free(window->stacks);
    free(window->rows);
    free(window->traces);
    free(window->location_index.entries);
    free(window->stack_index.entries);
    free(window->row_index.entries);
    free(window->trace_index.entries);
    free(window);
}

/* Makes room for `more` elements; false at the bound or without memory. */
static bool
grow(void **array, uint32_t *room, uint32_t count, uint32_t more, uint32_t bound, size_t size)
{
    if (count + more > bound) {
        return false;
    }
    if (count + more <= *room) {
        return true;
    }
    uint32_t wanted = *room == 0 ? 256 : *room;
    while (wanted < count + more) {
        wanted *= 2;
    }
    void *bigger = realloc(*array, wanted * size);
    if (bigger == NULL) {
        return false;
    }
    *array = bigger;
    *room = wanted;
    return true;
}

/* Keeps an index at most half full. `hash_at` gives the hash of element i. */
static bool
index_reserve(struct conprof_index *index, uint32_t count, const struct conprof_window *window,
              uint64_t (*hash_at)(const struct conprof_window *, uint32_t))
{
    if (index->size >= 2 * (count + 1)) {
        return true;
    }
    uint32_t size = index->size == 0 ? 512 : index->size * 2;
    uint32_t *entries = calloc(size, sizeof *entries);
    if (entries == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        uint32_t at = (uint32_t)hash_at(window, i) & (size - 1);
        while (entries[at] != 0) {
            at = (at + 1) & (size - 1);
        }
        entries[at] = i + 1;
    }
    free(index->entries);
    *index = (struct conprof_index){entries, size};
    return true;
}

/* ---- locations ---- */

static uint64_t
hash_location(const struct conprof_code *code, int32_t line)
{
    return conprof_hash_word(conprof_hash_word(0, code->hash), (uint32_t)line);
}

static uint64_t
location_hash_at(const struct conprof_window *window, uint32_t i)
{
    return hash_location(window->locations[i].code, window->locations[i].line);
}

static uint32_t
intern_location(struct conprof_window *window, struct conprof_code *code, int32_t line)
{
    if (!index_reserve(&window->location_index, window->location_count, window, location_hash_at)) {
        return NO_INDEX;
    }
    uint32_t mask = window->location_index.size - 1;
    uint32_t at = (uint32_t)hash_location(code, line) & mask;
    for (uint32_t found; (found = window->location_index.entries[at]) != 0; at = (at + 1) & mask) {
        const struct conprof_location *location = &window->locations[found - 1];
        if (location->line == line &&
            (location->code == code || conprof_code_is_twin(location->code, code))) {
            return found - 1;
        }
    }
    if (!grow((void **)&window->locations, &window->location_room, window->location_count, 1,
              CONPROF_MAX_LOCATIONS, sizeof *window->locations)) {
        return NO_INDEX;
    }
    atomic_fetch_add(&code->refs, 1);
    window->locations[window->location_count] = (struct conprof_location){code, line};
    window->location_index.entries[at] = ++window->location_count;
    return window->location_count - 1;
}

static struct conprof_code *
synthetic_code(uint64_t uid, uint32_t low)
{
    static const char *const texts[CONPROF_UID_FIRST] = {
        [CONPROF_UID_TRUNCATED] = "[truncated]",
        [CONPROF_UID_DRAIN] = "[conprof drain]",
        [CONPROF_UID_EXITED] = "[untracked threads]",
        [CONPROF_UID_UNWALKABLE] = "[unwalkable]",
        [CONPROF_UID_SUBINTERPRETER] = "[subinterpreter]",
        [CONPROF_UID_OVERFLOW] = "[stack table full]",
        [CONPROF_UID_UNSAMPLED] = "[not sampled]",
        [CONPROF_UID_OFF_CPU] = "[off the CPU]",
        [CONPROF_UID_SUSPENDED] = "[suspended task]",
    };
    char text[CONPROF_MAX_THREAD_NAME_BYTES + 24];
    struct conprof_code **place;
    if (uid == CONPROF_UID_NATIVE && low < CONPROF_MAX_THREAD_NAMES) {
        low = conprof_thread_name(low)[0] == '\0' ? 0 : low; /* equal texts, one code */
        place = &native_codes[low];
        snprintf(text, sizeof text, "[native thread %s]", conprof_thread_name(low));
    }
    else if (uid == CONPROF_UID_GC && low < CONPROF_GC_GENERATIONS) {
        place = &gc_codes[low];
        snprintf(text, sizeof text, "[gc generation %u]", (unsigned int)low);
    }
    else {
        const char *fixed = uid < CONPROF_UID_FIRST ? texts[uid] : NULL;
        place = &synthetic[fixed == NULL ? CONPROF_UID_UNRESOLVED : uid];
        snprintf(text, sizeof text, "%s", fixed == NULL ? "[unresolved code]" : fixed);
    }
    if (*place == NULL) {
        *place = conprof_code_new(text, strlen(text), "", 0, 0);
    }
    return *place;
}

struct conprof_location
conprof_location_of(uint64_t word)
{
    uint64_t uid = word >> CONPROF_FRAME_INSTRUCTION_BITS;
    uint32_t low = (uint32_t)(word & CONPROF_FRAME_INSTRUCTION_MASK);
    struct conprof_location location = {NULL, 0};
    if (uid >= CONPROF_UID_FIRST) {
        location.code = conprof_code_table_find(uid);
        if (location.code == NULL) {
            conprof_registry_forget(uid); /* the next sample copies it again */
        }
        else {
            location.line = conprof_code_line(location.code, (int32_t)low - 1);
        }
    }
    if (location.code == NULL) {
        location.code = synthetic_code(uid, low);
    }
    return location;
}

static uint32_t
location_of(struct conprof_window *window, uint64_t word)
{
    uint32_t slot = (uint32_t)conprof_hash_word(0, word) & (CACHE_SLOTS - 1);
    if (cache[slot].word == word) {
        return cache[slot].location;
    }
    struct conprof_location found = conprof_location_of(word);
    uint32_t location =
        found.code == NULL ? NO_INDEX : intern_location(window, found.code, found.line);
    if (location != NO_INDEX && word >> CONPROF_FRAME_INSTRUCTION_BITS >= CONPROF_UID_FIRST) {
        cache[slot].word = word;
        cache[slot].location = location;
    }
    return location;
}

void
conprof_window_forget_cache(void)
{
    memset(cache, 0, sizeof cache);
}

/* ---- stacks ---- */

static uint64_t
stack_hash_at(const struct conprof_window *window, uint32_t i)
{
    return window->stacks[i].hash;
}

/* The stack of the last `length` words of `stack_words`, which stay only if it is
 * new. */
static uint32_t
intern_stack(struct conprof_window *window, uint32_t first, uint32_t length)
{
    const uint32_t *words = window->stack_words + first;
    uint32_t hash = (uint32_t)conprof_hash_bytes(length, words, length * sizeof *words);
    if (!index_reserve(&window->stack_index, window->stack_count, window, stack_hash_at)) {
        return NO_INDEX;
    }
    uint32_t mask = window->stack_index.size - 1, at = hash & mask;
    for (uint32_t found; (found = window->stack_index.entries[at]) != 0; at = (at + 1) & mask) {
        const struct conprof_stack_row *stack = &window->stacks[found - 1];
        if (stack->hash == hash && stack->length == length &&
            memcmp(window->stack_words + stack->first, words, length * sizeof *words) == 0) {
            window->stack_word_count = first;
            return found - 1;
        }
    }
    if (!grow((void **)&window->stacks, &window->stack_room, window->stack_count, 1,
              window->max_stacks + 1, sizeof *window->stacks)) {
        return NO_INDEX;
    }
    window->stacks[window->stack_count] = (struct conprof_stack_row){first, length, hash};
    window->stack_index.entries[at] = ++window->stack_count;
    return window->stack_count - 1;
}

/* Interns a stack of frame words, or of locations when there are no words. */
static uint32_t
stack_of(struct conprof_window *window, const uint64_t *frames,
         const struct conprof_location *locations, uint32_t n)
{
    uint32_t first = window->stack_word_count;
    if (!grow((void **)&window->stack_words, &window->stack_word_room, first, n,
              CONPROF_MAX_STACK_WORDS, sizeof *window->stack_words)) {
        return NO_INDEX;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint32_t location = frames != NULL
                                ? location_of(window, frames[i])
                                : intern_location(window, locations[i].code, locations[i].line);
        if (location == NO_INDEX) {
            return NO_INDEX;
        }
        window->stack_words[first + i] = location;
    }
    window->stack_word_count = first + n;
    /* The last place is kept for the overflow stack. */
    bool is_overflow = n == 1 && frames != NULL && frames[0] == OVERFLOW_WORD;
    uint32_t stack = window->stack_count < window->max_stacks || is_overflow
                         ? intern_stack(window, first, n)
                         : NO_INDEX;
    if (stack == NO_INDEX) {
        window->stack_word_count = first;
    }
    return stack;
}

/* ---- traces ---- */

static uint64_t
hash_trace(const struct conprof_trace *trace)
{
    return conprof_hash_word(conprof_hash_word(trace->high, trace->low), trace->span);
}

static uint64_t
trace_hash_at(const struct conprof_window *window, uint32_t i)
{
    return hash_trace(&window->traces[i]);
}

/* What a row says of a trace, which is entered if need be: 0 for none, and, counted as lost,
 * for one that finds no room. */
static uint16_t
trace_of(struct conprof_window *window, const struct conprof_trace *trace)
{
    if (trace->span == 0) {
        return 0;
    }
    if (!index_reserve(&window->trace_index, window->trace_count, window, trace_hash_at)) {
        window->lost[CONPROF_LOST_TRACES]++;
        return 0;
    }
    uint32_t mask = window->trace_index.size - 1, at = (uint32_t)hash_trace(trace) & mask;
    for (uint32_t found; (found = window->trace_index.entries[at]) != 0; at = (at + 1) & mask) {
        const struct conprof_trace *known = &window->traces[found - 1];
        if (known->span == trace->span && known->low == trace->low && known->high == trace->high) {
            return (uint16_t)found;
        }
    }
    if (!grow((void **)&window->traces, &window->trace_room, window->trace_count, 1,
              CONPROF_MAX_TRACES, sizeof *window->traces)) {
        window->lost[CONPROF_LOST_TRACES]++;
        return 0;
    }
    window->traces[window->trace_count] = *trace;
    window->trace_index.entries[at] = ++window->trace_count;
    return (uint16_t)window->trace_count;
}

/* ---- rows ---- */

/* What makes a row, besides its stack. */
struct row_key {
    struct conprof_label_record *record;
    uint64_t cell_id;
    uint16_t name_id, trace;
};

static uint64_t
hash_row(uint32_t stack, const struct row_key *key)
{
    uint64_t low = (uint64_t)key->trace << 16 | key->name_id;
    uint64_t hash = conprof_hash_word((uintptr_t)key->record, (uint64_t)stack << 32 | low);
    return conprof_hash_word(hash, key->cell_id);
}

static struct row_key
key_of(const struct conprof_row *row)
{
    return (struct row_key){row->record, row->cell_id, row->name_id, row->trace};
}

static uint64_t
row_hash_at(const struct conprof_window *window, uint32_t i)
{
    struct row_key key = key_of(&window->rows[i]);
    return hash_row(window->rows[i].stack, &key);
}

/* The row of a key, made if need be; NULL at the bound. */
static struct conprof_row *
row_of(struct conprof_window *window, uint32_t stack, struct row_key key)
{
    if (!index_reserve(&window->row_index, window->row_count, window, row_hash_at)) {
        return NULL;
    }
    uint32_t mask = window->row_index.size - 1;
    uint32_t at = (uint32_t)hash_row(stack, &key) & mask;
    for (uint32_t found; (found = window->row_index.entries[at]) != 0; at = (at + 1) & mask) {
        struct conprof_row *row = &window->rows[found - 1];
        if (row->stack == stack && row->record == key.record && row->cell_id == key.cell_id &&
            row->name_id == key.name_id && row->trace == key.trace) {
            return row;
        }
    }
    if (key.trace != 0 && window->traced_row_count >= CONPROF_MAX_TRACED_ROWS) {
        window->lost[CONPROF_LOST_TRACES]++;
        key.trace = 0;
        return row_of(window, stack, key);
    }
    if (!grow((void **)&window->rows, &window->row_room, window->row_count, 1, CONPROF_MAX_ROWS,
              sizeof *window->rows)) {
        return NULL;
    }
    conprof_labels_acquire(key.record);
    window->traced_row_count += key.trace != 0;
    window->rows[window->row_count] = (struct conprof_row){.record = key.record,
                                                           .cell_id = key.cell_id,
                                                           .stack = stack,
                                                           .name_id = key.name_id,
                                                           .trace = key.trace};
    window->row_index.entries[at] = ++window->row_count;
    return &window->rows[window->row_count - 1];
}

/* The row of a stack that was interned or, with NO_INDEX, found no room. */
static struct conprof_row *
row_or_overflow(struct conprof_window *window, uint32_t stack, struct row_key key)
{
    struct conprof_row *row = NULL;
    if (stack != NO_INDEX) {
        row = row_of(window, stack, key);
    }
    if (row == NULL) {
        static const uint64_t overflow = OVERFLOW_WORD;
        stack = stack_of(window, &overflow, NULL, 1);
        row = stack == NO_INDEX ? NULL
                                : row_of(window, stack, (struct row_key){.record = key.record});
        window->lost[CONPROF_LOST_STACKS]++;
    }
    if (row == NULL && window->row_count > 0) {
        row = &window->rows[0]; /* every table is full: the sum at least is right */
    }
    return row;
}

struct conprof_row *
conprof_window_row(struct conprof_window *window, const uint64_t *frames, uint32_t n,
                   const struct conprof_marks *marks, uint32_t name_id)
{
    struct row_key key = {marks->record, marks->cell_id, (uint16_t)name_id,
                          trace_of(window, &marks->trace)};
    return row_or_overflow(window, stack_of(window, frames, NULL, n), key);
}

struct conprof_row *
conprof_window_row_at(struct conprof_window *window, const struct conprof_location *locations,
                      uint32_t n, struct conprof_label_record *record, uint32_t name_id,
                      const struct conprof_trace *trace)
{
    struct row_key key = {
        .record = record, .name_id = (uint16_t)name_id, .trace = trace_of(window, trace)};
    return row_or_overflow(window, stack_of(window, NULL, locations, n), key);
}

bool
conprof_row_is_empty(const struct conprof_row *row)
{
    for (int i = 0; i < CONPROF_COLUMN_COUNT; i++) {
        if (row->values[i] != 0) {
            return false;
        }
    }
    return true;
}

struct conprof_row *
conprof_window_add(struct conprof_window *window, const uint64_t *words, uint32_t n,
                   const struct conprof_trace *trace)
{
    if (n <= CONPROF_SAMPLE_FRAMES) {
        return NULL;
    }
    struct conprof_marks marks = {
        .record = (struct conprof_label_record *)(uintptr_t)words[CONPROF_SAMPLE_RECORD],
        .cell_id = words[CONPROF_SAMPLE_CELL],
        .trace = *trace};
    uint32_t flags = (uint32_t)words[CONPROF_SAMPLE_NAME] & CONPROF_SAMPLE_FLAGS;
    uint32_t events = (uint32_t)words[CONPROF_SAMPLE_NAME] & ~CONPROF_SAMPLE_FLAGS;
    if (flags & CONPROF_IS_UNSURE && !conprof_labels_is_known(marks.record)) {
        marks.record = conprof_labels_empty();
    }
    struct conprof_row *row =
        conprof_window_row(window, words + CONPROF_SAMPLE_FRAMES, n - CONPROF_SAMPLE_FRAMES, &marks,
                           (uint32_t)(words[CONPROF_SAMPLE_NAME] >> 32));
    if (row != NULL && flags & CONPROF_IS_RESIDUE) {
        uint64_t residue_ns = words[CONPROF_SAMPLE_CPU_NS];
        row->residue_ns += residue_ns;
        window->totals[CONPROF_COLUMN_CPU_NS] += residue_ns;
        window->totals[CONPROF_COLUMN_WALL_NS] += window->has_wall ? residue_ns : 0;
        return NULL;
    }
    conprof_window_charge(window, row, CONPROF_COLUMN_SAMPLES, events);
    conprof_window_charge(window, row, CONPROF_COLUMN_CPU_NS, words[CONPROF_SAMPLE_CPU_NS]);
    /* The drain is no thread of the application: its wall time is nobody's. */
    if (window->has_wall &&
        words[CONPROF_SAMPLE_FRAMES] != conprof_frame_word(CONPROF_UID_DRAIN, 0)) {
        conprof_window_charge(window, row, CONPROF_COLUMN_WALL_SAMPLES, events);
        conprof_window_charge(window, row, CONPROF_COLUMN_WALL_NS, words[CONPROF_SAMPLE_CPU_NS]);
    }
    return row;
}

void
conprof_window_resolve(struct conprof_window *window)
{
    uint32_t count = window->row_count;
    for (uint32_t i = 0; i < count; i++) {
        if (window->rows[i].cell_id == 0) {
            continue;
        }
        struct row_key key = key_of(&window->rows[i]);
        struct conprof_label_record *bound = conprof_labels_binding(key.cell_id);
        /* What is to be spread over samples has no trace: see residue.h. */
        const struct conprof_trace *trace =
            conprof_row_is_empty(&window->rows[i]) ? NULL : conprof_traces_binding(key.cell_id);
        key.record = bound == NULL ? key.record : bound;
        key.trace = key.trace != 0 || trace == NULL ? key.trace : trace_of(window, trace);
        key.cell_id = 0;
        /* The row that is emptied gives its place among the traced ones to the target. */
        window->traced_row_count -= window->rows[i].trace != 0;
        struct conprof_row *target = row_of(window, window->rows[i].stack, key);
        if (target == NULL) {
            continue;
        }
        /* `rows` may have moved: index, not pointer. */
        for (int column = 0; column < CONPROF_COLUMN_COUNT; column++) {
            target->values[column] += window->rows[i].values[column];
            window->rows[i].values[column] = 0;
        }
        target->residue_ns += window->rows[i].residue_ns;
        window->rows[i].residue_ns = 0;
    }
}
