/* wait_place.c: see wait_place.h. */
#include "wait_place.h"

#include <stdlib.h>
#include <string.h>

#include "code_table.h"
#include "lock.h"
#include "sampler.h"

#define MAX_PLACE_BYTES 64u

/* Frames near the leaf that may tell; as _NEAR_LEAF of task_states.py. */
#define NEAR_LEAF 4u

struct place {
    char file[MAX_PLACE_BYTES]; /* with a slash in front: the end of the file's name */
    char function[MAX_PLACE_BYTES];
    uint8_t file_bytes, function_bytes; /* no function: any */
    uint8_t kind;
};

/* owner: holder of the session lock; written once, before the first session */
static struct place places[CONPROF_MAX_WAIT_PLACES];
static uint32_t place_count;

static bool
read_place(PyObject *row, struct place *place)
{
    const char *file, *function;
    Py_ssize_t file_bytes, function_bytes;
    int kind;
    if (!PyTuple_Check(row) ||
        !PyArg_ParseTuple(row, "s#s#i", &file, &file_bytes, &function, &function_bytes, &kind)) {
        PyErr_SetString(PyExc_TypeError, "a row is (end of the file's name, function, kind)");
        return false;
    }
    if (file_bytes >= (Py_ssize_t)MAX_PLACE_BYTES ||
        function_bytes >= (Py_ssize_t)MAX_PLACE_BYTES || kind < CONPROF_KIND_IDLE ||
        kind > CONPROF_KIND_EVENT) {
        PyErr_SetString(PyExc_ValueError, "a name is too long, or there is no such kind");
        return false;
    }
    place->file[0] = '/';
    memcpy(place->file + 1, file, (size_t)file_bytes);
    memcpy(place->function, function, (size_t)function_bytes);
    place->file_bytes = (uint8_t)(file_bytes + 1);
    place->function_bytes = (uint8_t)function_bytes;
    place->kind = (uint8_t)kind;
    return true;
}

PyObject *
conprof_wait_places_set(PyObject *Py_UNUSED(module), PyObject *rows)
{
    if (!PyList_CheckExact(rows) || PyList_GET_SIZE(rows) > (Py_ssize_t)CONPROF_MAX_WAIT_PLACES) {
        PyErr_SetString(PyExc_TypeError, "rows must be a list, and not too long");
        return NULL;
    }
    uint32_t count = (uint32_t)PyList_GET_SIZE(rows);
    struct place *read = PyMem_Malloc(CONPROF_MAX_WAIT_PLACES * sizeof *read);
    if (read == NULL) {
        return PyErr_NoMemory();
    }
    for (uint32_t i = 0; i < count; i++) {
        if (!read_place(PyList_GET_ITEM(rows, i), &read[i])) {
            PyMem_Free(read);
            return NULL;
        }
    }
    conprof_lock();
    if (place_count == 0) {
        conprof_code_table_reset(); /* codes keep the ranks that they were given */
        memcpy(places, read, count * sizeof *read);
        place_count = count;
    }
    conprof_unlock();
    PyMem_Free(read);
    Py_RETURN_NONE;
}

static bool
ends_with(const char *text, size_t bytes, const char *end, size_t end_bytes)
{
    return bytes >= end_bytes && memcmp(text + bytes - end_bytes, end, end_bytes) == 0;
}

uint8_t
conprof_wait_place_rank(const char *name, size_t name_bytes, const char *file, size_t file_bytes)
{
    for (uint32_t i = 0; i < place_count; i++) {
        const struct place *place = &places[i];
        if (ends_with(file, file_bytes, place->file, place->file_bytes) &&
            (place->function_bytes == 0 || (name_bytes == place->function_bytes &&
                                            memcmp(name, place->function, name_bytes) == 0))) {
            return (uint8_t)(i + 1);
        }
    }
    return 0;
}

/* Does the place belong to a library whose own frames lie around those that wait? */
static bool
is_library(const struct conprof_code *code)
{
    const char *file = conprof_code_file(code);
    return memmem(file, code->file_bytes, "gevent/", 7) != NULL ||
           memmem(file, code->file_bytes, "anyio/", 6) != NULL;
}

enum conprof_wait_kind
conprof_wait_place_kind(const uint64_t *frames, uint32_t count)
{
    uint8_t best = 0;
    for (uint32_t i = 0; i < count && i < NEAR_LEAF; i++) {
        const struct conprof_code *code =
            conprof_code_table_find(frames[i] >> CONPROF_FRAME_INSTRUCTION_BITS);
        if (code == NULL || (code->wait_rank == 0 && !is_library(code))) {
            break; /* a place of the application: what called it does not wait */
        }
        if (code->wait_rank != 0 && (best == 0 || code->wait_rank < best)) {
            best = code->wait_rank;
        }
    }
    /* Where the application itself waits it has called a lock. */
    return best == 0 ? CONPROF_KIND_LOCK : (enum conprof_wait_kind)places[best - 1].kind;
}
