/* fenced.c: see fenced.h. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <sys/mman.h>

#include "fenced.h"

/* Address space, not memory; some 250 million chunks. */
#define RESERVED_BYTES ((size_t)4 << 40)

/* The kernel keeps tables for what was ever touched: they go when a whole segment is dead. */
#define SEGMENT_BYTES ((size_t)64 << 20)
#define SEGMENTS (RESERVED_BYTES / SEGMENT_BYTES)

#define ARENA_AT_LEAST ((size_t)256 << 10)

struct fenced_counts fenced_counts;

static char *reserved;
static _Atomic size_t used;              /* bytes handed out, from the beginning */
static _Atomic(uint32_t) *sizes;         /* in units, by number of the first unit; 0: none */
static _Atomic(uint32_t) live[SEGMENTS]; /* units in use */
static PyObjectArenaAllocator original;

static void *
reserve(size_t bytes, int protection)
{
    void *at = mmap(NULL, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) {
        return NULL;
    }
    madvise(at, bytes, MADV_DONTDUMP); /* a core of it takes minutes */
    return at;
}

/* Units of a block count in each segment that it touches. */
static void
count_live(size_t offset, size_t bytes, bool is_taken)
{
    for (size_t at = offset; at < offset + bytes;) {
        size_t segment = at / SEGMENT_BYTES;
        size_t end = (segment + 1) * SEGMENT_BYTES;
        end = end < offset + bytes ? end : offset + bytes;
        uint32_t units = (uint32_t)((end - at) / FENCED_UNIT);
        if (is_taken) {
            atomic_fetch_add(&live[segment], units);
        }
        else if (atomic_fetch_sub(&live[segment], units) == units &&
                 atomic_load(&used) >= (segment + 1) * SEGMENT_BYTES) {
            /* Nothing of it will ever be used again. */
            mmap(reserved + segment * SEGMENT_BYTES, SEGMENT_BYTES, PROT_NONE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
        }
        at = end;
    }
}

static void *
take(void *Py_UNUSED(ctx), size_t size)
{
    size_t bytes = (size + FENCED_UNIT - 1) / FENCED_UNIT * FENCED_UNIT;
    size_t offset = atomic_fetch_add(&used, bytes);
    if (offset + bytes > RESERVED_BYTES) {
        atomic_fetch_add(&fenced_counts.unfenced, 1);
        return original.alloc(original.ctx, size);
    }
    count_live(offset, bytes, true);
    if (mprotect(reserved + offset, bytes, PROT_READ | PROT_WRITE) != 0) {
        return NULL;
    }
    atomic_store(&sizes[offset / FENCED_UNIT], (uint32_t)(bytes / FENCED_UNIT));
    atomic_fetch_add(&fenced_counts.taken, 1);
    return reserved + offset;
}

/* `said` is not believed: of chunks, what they say of their size is changed (faults.c). */
static void
give_back(void *Py_UNUSED(ctx), void *block, size_t said)
{
    size_t bytes = fenced_size((uintptr_t)block);
    if (bytes == 0) {
        original.free(original.ctx, block, said); /* from before, or there was no room */
        return;
    }
    /* A handler asks before it touches a chunk: 3.14 keeps the address of one that it frees. */
    atomic_store(&sizes[((char *)block - reserved) / (ptrdiff_t)FENCED_UNIT], 0);
    if (mprotect(block, bytes, PROT_NONE) != 0) {
        abort();
    }
    madvise(block, bytes, MADV_DONTNEED);
    atomic_fetch_add(&fenced_counts.fenced, 1);
    atomic_fetch_add(&fenced_counts.chunks, bytes < ARENA_AT_LEAST);
    count_live((size_t)((char *)block - reserved), bytes, false);
    fenced_gave_back();
}

size_t
fenced_size(uintptr_t block)
{
    uintptr_t offset = block - (uintptr_t)reserved;
    if (reserved == NULL || offset >= RESERVED_BYTES || offset % FENCED_UNIT != 0) {
        return 0;
    }
    return atomic_load(&sizes[offset / FENCED_UNIT]) * FENCED_UNIT;
}

bool
fenced_install(void)
{
    sizes = reserve(RESERVED_BYTES / FENCED_UNIT * sizeof *sizes, PROT_READ | PROT_WRITE);
    reserved = sizes == NULL ? NULL : reserve(RESERVED_BYTES, PROT_NONE);
    if (reserved == NULL) {
        return false;
    }
    PyObject_GetArenaAllocator(&original);
    PyObjectArenaAllocator ours = {NULL, take, give_back};
    PyObject_SetArenaAllocator(&ours);
    return true;
}
