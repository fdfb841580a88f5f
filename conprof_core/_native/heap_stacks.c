/* heap_stacks.c: see heap_stacks.h. */
#include "heap_stacks.h"

#include <stdlib.h>
#include <string.h>

#include "code_registry.h"
#include "hash.h"
#include "heap.h"
#include "sampler.h"

#define BUCKETS 4096u
#define MAX_LENGTH (CONPROF_MAX_FRAMES + 1)

/* owner: holder of the session lock */
static struct conprof_heap_stack *buckets[BUCKETS];
static uint32_t location_count;

static struct conprof_heap_stack *
intern(const struct conprof_location *locations, uint32_t n)
{
    uint64_t mixed = n;
    for (uint32_t i = 0; i < n; i++) {
        mixed = conprof_hash_word(mixed, (uintptr_t)locations[i].code);
        mixed = conprof_hash_word(mixed, (uint32_t)locations[i].line);
    }
    uint32_t hash = (uint32_t)(mixed >> 8);
    struct conprof_heap_stack **bucket = &buckets[hash % BUCKETS];
    for (struct conprof_heap_stack *stack = *bucket; stack != NULL; stack = stack->next) {
        bool is_same = stack->hash == hash && stack->length == n;
        for (uint32_t i = 0; is_same && i < n; i++) {
            is_same = stack->locations[i].code == locations[i].code &&
                      stack->locations[i].line == locations[i].line;
        }
        if (is_same) {
            stack->refs++;
            return stack;
        }
    }
    if (location_count + n > CONPROF_HEAP_MAX_LOCATIONS && n > 1) {
        return NULL;
    }
    struct conprof_heap_stack *stack = malloc(sizeof *stack + n * sizeof *stack->locations);
    if (stack == NULL) {
        return NULL;
    }
    *stack = (struct conprof_heap_stack){.next = *bucket, .refs = 1, .length = n, .hash = hash};
    for (uint32_t i = 0; i < n; i++) {
        stack->locations[i] = locations[i];
        atomic_fetch_add(&locations[i].code->refs, 1);
    }
    location_count += n;
    *bucket = stack;
    return stack;
}

struct conprof_heap_stack *
conprof_heap_stacks_intern(const struct conprof_window *window, const struct conprof_row *row,
                           const uint64_t *frames, uint32_t n)
{
    /* owner: holder of the session lock, who may be a thread of the application's */
    static struct conprof_location locations[MAX_LENGTH];
    const struct conprof_stack_row *known = row == NULL ? NULL : &window->stacks[row->stack];
    n = n < MAX_LENGTH ? n : MAX_LENGTH;
    if (known != NULL && (known->length != n || n == 1)) {
        known = NULL; /* the overflow row */
    }
    for (uint32_t i = 0; i < n; i++) {
        locations[i] = known == NULL ? conprof_location_of(frames[i])
                                     : window->locations[window->stack_words[known->first + i]];
        if (locations[i].code == NULL) {
            return NULL;
        }
    }
    struct conprof_heap_stack *stack = intern(locations, n);
    if (stack == NULL) {
        atomic_fetch_add(&conprof_heap.stacks_refused, 1);
        locations[0] = conprof_location_of(conprof_frame_word(CONPROF_UID_OVERFLOW, 0));
        stack = locations[0].code == NULL ? NULL : intern(locations, 1);
    }
    return stack;
}

void
conprof_heap_stacks_release(struct conprof_heap_stack *stack)
{
    if (stack == NULL || --stack->refs > 0) {
        return;
    }
    struct conprof_heap_stack **place = &buckets[stack->hash % BUCKETS];
    while (*place != stack) {
        place = &(*place)->next;
    }
    *place = stack->next;
    for (uint32_t i = 0; i < stack->length; i++) {
        conprof_code_release(stack->locations[i].code);
    }
    location_count -= stack->length;
    free(stack);
}
