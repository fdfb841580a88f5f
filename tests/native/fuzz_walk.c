/* fuzz_walk.c: the frame walker over corrupted frames.
 *
 * A thread state, data-stack chunks, generators and entry frames are laid out by
 * hand; a correct chain must be walked whole (the premise), and a chain with
 * corrupted words must end in one of the documented ways, touch nothing outside
 * and stay within its bounds. Built with the address sanitizer, with guard pages
 * around the memory that walks may read.
 *
 *   fuzz_walk ROUNDS SEED
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "far.h"
#include "outside.h"
#include "safemem.h"
#include "unwind.h"

#define CHUNK_BYTES ((size_t)16384)
#define CHUNKS 3
#define FRAMES 40
#define OUTSIDE_BYTES ((size_t)65536)

static uint64_t state;

static uint64_t
next_random(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static char *
guarded(size_t bytes)
{
    size_t page = 4096;
    char *at = mmap(NULL, bytes + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED || mprotect(at + page, bytes, PROT_READ | PROT_WRITE) != 0) {
        abort();
    }
    return at + page;
}

static char *chunk_memory[CHUNKS], *outside;
static PyThreadState thread;
#if PY_VERSION_HEX < 0x030D0000
static _PyCFrame cframe;
#endif

static void
set_current(conprof_frame *frame)
{
#if PY_VERSION_HEX >= 0x030D0000
    thread.current_frame = frame;
#else
    thread.cframe = &cframe;
    cframe.current_frame = frame;
#endif
}

/* Lays out FRAMES frames, every fifth in a generator; returns how many a walk must find. */
static uint32_t
lay_out(void)
{
    memset(&thread, 0, sizeof thread);
    memset(outside, 0, OUTSIDE_BYTES);
    uint32_t count = 0;
    conprof_frame *previous = (conprof_frame *)conprof_bottom_frame(&thread);
    for (int c = 0; c < CHUNKS; c++) {
        memset(chunk_memory[c], 0, CHUNK_BYTES);
        _PyStackChunk *chunk = (_PyStackChunk *)chunk_memory[c];
        chunk->previous = c == 0 ? NULL : (_PyStackChunk *)chunk_memory[c - 1];
        chunk->size = CHUNK_BYTES;
        PyObject **at = &chunk->data[c == 0 ? 1 : 0];
        for (int i = 0; i < FRAMES; i++) {
            conprof_frame *frame = (conprof_frame *)at;
            if (i > 0 && i % 5 == 0) {
                char *generator = outside + (size_t)(c * FRAMES + i) * 256;
                if (generator + 256 + sizeof(conprof_frame) > outside + OUTSIDE_BYTES) {
                    abort();
                }
                ((PyObject *)generator)->ob_type = i % 2 ? &PyCoro_Type : &PyGen_Type;
                frame = (conprof_frame *)(generator + CONPROF_GENERATOR_FRAME_OFFSET);
                frame->owner = CONPROF_OWNER_GENERATOR;
            }
            else {
                frame->owner = CONPROF_OWNER_THREAD;
                at += sizeof(conprof_frame) / sizeof(PyObject *) + (size_t)(i % 7);
            }
            frame->previous = previous;
            previous = frame;
            count++;
        }
        thread.datastack_chunk = chunk;
        thread.datastack_top = at;
        thread.datastack_limit = (PyObject **)(chunk_memory[c] + CHUNK_BYTES);
    }
    set_current(previous);
    return count;
}

/* A pointer that a stale window may leave behind, or worse. */
static uint64_t
hostile(void)
{
    switch (next_random() % 8) {
    case 0:
        return 0;
    case 1:
        return (uint64_t)(chunk_memory[next_random() % CHUNKS] + next_random() % CHUNK_BYTES);
    case 2:
        return (uint64_t)(outside + 4096 + next_random() % (OUTSIDE_BYTES - 8192));
    case 3:
        return (uint64_t)(chunk_memory[next_random() % CHUNKS] + 8 * (next_random() % 2048));
    case 4:
        return next_random();
    case 5:
        return next_random() & 0x7fffffffffffull;
    case 6:
        return (uint64_t)(chunk_memory[next_random() % CHUNKS] + CHUNK_BYTES - next_random() % 64);
    default:
        return next_random() % 4096;
    }
}

static void
corrupt_one(void)
{
    uint32_t kind = (uint32_t)(next_random() % 10);
    int chunk = (int)(next_random() % CHUNKS);
    if (kind == 0) {
        set_current((conprof_frame *)hostile());
    }
    else if (kind == 1) {
        outside[next_random() % OUTSIDE_BYTES] ^= (char)(1u << next_random() % 8);
    }
    else if (kind < 4) {
        /* A word in the frames; the chunk's own header is what the walker trusts. */
        size_t head = offsetof(_PyStackChunk, data) / 8;
        size_t word = head + next_random() % (CHUNK_BYTES / 8 - head);
        ((uint64_t *)chunk_memory[chunk])[word] = hostile();
    }
    else {
        /* `previous` or `owner` of a frame that is on the chain. */
        conprof_frame *frame = (conprof_frame *)conprof_current_frame(&thread);
        for (uint64_t hops = next_random() % FRAMES; hops > 0 && frame != NULL; hops--) {
            char *at = (char *)frame;
            bool is_ours = (at >= outside && at + sizeof *frame < outside + OUTSIDE_BYTES);
            for (int c = 0; c < CHUNKS; c++) {
                is_ours |= at >= chunk_memory[c] + 16 &&
                           at + sizeof *frame <= chunk_memory[c] + CHUNK_BYTES;
            }
            if (!is_ours || (uintptr_t)at % 8 != 0) {
                return;
            }
            if (hops == 1) {
                if (kind < 9) {
                    frame->previous = (conprof_frame *)hostile();
                }
                else {
                    frame->owner = (char)next_random();
                }
            }
            frame = frame->previous;
        }
    }
}

static enum conprof_walk
walk_near(struct conprof_outside *last, struct conprof_stack *stack)
{
    return conprof_unwind(&thread, (uintptr_t)&thread, 0, 0, last, stack);
}

static enum conprof_walk
walk_far(struct conprof_far *far, struct conprof_stack *stack)
{
    return conprof_far_walk(far, &thread, (uintptr_t)&thread, stack);
}

int
main(int argc, char **argv)
{
    long rounds = argc > 1 ? atol(argv[1]) : 100000;
    state = argc > 2 ? strtoull(argv[2], NULL, 0) : 88172645463325252ull;
    conprof_safemem_init();
    for (int c = 0; c < CHUNKS; c++) {
        chunk_memory[c] = guarded(CHUNK_BYTES);
    }
    outside = guarded(OUTSIDE_BYTES);
    static struct conprof_outside last;
    static struct conprof_far far;
    struct conprof_stack stack;
    uint32_t count = lay_out();
    uint32_t kept = count < CONPROF_MAX_FRAMES ? count : CONPROF_MAX_FRAMES;
    for (int i = 0; i < 3; i++) {
        /* The second walk reads what the first has met in one batch; the last reads all through the
         * kernel. */
        enum conprof_walk walk = i < 2 ? walk_near(&last, &stack) : walk_far(&far, &stack);
        if (walk != CONPROF_WALK_OK || stack.leaf_count + stack.root_count != kept ||
            stack.is_truncated) {
            printf("premise: a correct chain of %u frames was not walked whole\n", count);
            return 1;
        }
    }
    long outcomes[3] = {0};
    for (long round = 0; round < rounds; round++) {
        if (round % 4 == 0) {
            lay_out();
        }
        for (uint64_t i = next_random() % 3 + 1; i > 0; i--) {
            corrupt_one();
        }
        memset(&stack, 0xA5, sizeof stack);
        enum conprof_walk walk =
            round % 2 ? walk_near(&last, &stack) : walk_far(&far, &stack);
        if ((int)walk < 0 || (int)walk > 2 ||
            (walk == CONPROF_WALK_OK &&
             (stack.leaf_count > CONPROF_LEAF_FRAMES || stack.root_count > CONPROF_ROOT_FRAMES))) {
            printf("round %ld: walk %d with %u + %u frames\n", round, (int)walk, stack.leaf_count,
                   stack.root_count);
            return 1;
        }
        outcomes[walk]++;
    }
    printf("walker: %ld rounds, %ld ok, %ld empty, %ld given up\n", rounds,
           outcomes[CONPROF_WALK_OK], outcomes[CONPROF_WALK_EMPTY], outcomes[CONPROF_WALK_STALE]);
    /* Premise: corruption was seen, and not everything was refused. */
    return outcomes[CONPROF_WALK_OK] > 0 && outcomes[CONPROF_WALK_STALE] > 0 ? 0 : 1;
}
