/* tables.h: strings, functions and locations of one profile, each once, with ids.
 *
 * What pprof and OTLP share: string 0 is empty, functions and locations are numbered
 * 1..n in the order in which they were asked for. Pure computation in one thread: no
 * lock, no GIL. Texts are borrowed from the window and the naming.
 */
#ifndef CONPROF_TABLES_H
#define CONPROF_TABLES_H

#include "ids.h"
#include "naming.h"
#include "wire.h"

struct conprof_function_entry {
    uint32_t name, file; /* strings */
    int32_t first_line;
};

struct conprof_location_entry {
    uint32_t function;
    int32_t line;
};

/* owner: one encoder. After a failure the ids mean nothing. */
struct conprof_tables {
    const struct conprof_window *window;
    struct conprof_ids string_ids, function_ids, location_ids; /* their counts are the tables' */
    struct conprof_text *strings;                              /* by id; [0] is unused */
    struct conprof_function_entry *functions;                  /* by id - 1 */
    struct conprof_location_entry *locations;                  /* by id - 1 */
    uint32_t string_room, function_room, location_room;
    uint32_t *location_of; /* location of the window -> id, 0 not seen */
    bool failed;
};

/* False without memory; freed all the same. */
bool conprof_tables_init(struct conprof_tables *tables, const struct conprof_window *window);
void conprof_tables_free(struct conprof_tables *tables);

/* The id of a string; 0 for the empty one. */
uint32_t conprof_tables_string(struct conprof_tables *tables, struct conprof_text text);

/* The ids of the locations of a stack of the window, as packed varints. */
void conprof_tables_put_stack(struct conprof_tables *tables, struct conprof_wire *wire,
                              const struct conprof_stack_row *stack);

#endif
