/* thread_names.c: names of threads, see threads.h. */
#include <stdbool.h>
#include <string.h>

#include "threads.h"

/* owner: holder of the session lock; a name that has an id is never changed */
static char names[CONPROF_MAX_THREAD_NAMES][CONPROF_MAX_THREAD_NAME_BYTES + 1];
static uint32_t name_count = 1;

uint32_t
conprof_thread_name_id(const char *name, size_t bytes)
{
    char folded[CONPROF_MAX_THREAD_NAME_BYTES + 1];
    size_t length = 0;
    bool in_digits = false;
    for (size_t i = 0; i < bytes && length < CONPROF_MAX_THREAD_NAME_BYTES; i++) {
        bool is_digit = name[i] >= '0' && name[i] <= '9';
        if (!is_digit || !in_digits) {
            folded[length++] = is_digit ? 'N' : name[i];
        }
        in_digits = is_digit;
    }
    /* Never cut a UTF-8 character in two. */
    if (length == CONPROF_MAX_THREAD_NAME_BYTES) {
        while (length > 0 && ((unsigned char)folded[length - 1] & 0xC0) == 0x80) {
            length--;
        }
        if (length > 0 && ((unsigned char)folded[length - 1] & 0x80)) {
            length--;
        }
    }
    folded[length] = '\0';
    for (uint32_t i = 0; i < name_count; i++) {
        if (strcmp(names[i], folded) == 0) {
            return i;
        }
    }
    if (name_count == CONPROF_MAX_THREAD_NAMES - 1) {
        strcpy(names[name_count], "[other threads]");
        return name_count;
    }
    strcpy(names[name_count], folded);
    return name_count++;
}

const char *
conprof_thread_name(uint32_t id)
{
    return id < CONPROF_MAX_THREAD_NAMES ? names[id] : "";
}
