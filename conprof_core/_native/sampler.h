/* sampler.h: what turns a timer signal into a sample in the ring.
 *
 * The contract of signal context is in handler.c. Here is what the rest of the
 * extension needs of it.
 */
#ifndef CONPROF_SAMPLER_H
#define CONPROF_SAMPLER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "ring.h"
#include "threads.h"

/* Words of a sample record behind its header; then one word a frame, leaf first. */
enum conprof_sample_word {
    CONPROF_SAMPLE_CPU_NS, /* weight: CPU time since the thread's previous sample */
    CONPROF_SAMPLE_CELL,   /* id of a provisional label cell, or 0 */
    CONPROF_SAMPLE_RECORD, /* struct conprof_label_record * */
    CONPROF_SAMPLE_NAME,   /* thread-name id << 32 | CONPROF_IS_RESIDUE | CONPROF_IS_UNSURE | events
                              this record stands for (1 or 0) */
    CONPROF_SAMPLE_LOOP,   /* context version << CONPROF_LOOP_BITS | conprof_thread.loop, or 0 */
    CONPROF_SAMPLE_FRAMES,
};

/* Of a sample record: its labels are known, its stack is a stand-in (residue.h). */
#define CONPROF_IS_RESIDUE (UINT32_C(1) << 31)

/* Of a sample record: its label record may be dead. */
#define CONPROF_IS_UNSURE (UINT32_C(1) << 30)
#define CONPROF_SAMPLE_FLAGS (CONPROF_IS_RESIDUE | CONPROF_IS_UNSURE)

/* See CONPROF_SAMPLE_LOOP. */
#define CONPROF_LOOP_BITS 8
#define CONPROF_LOOP_MASK ((UINT64_C(1) << CONPROF_LOOP_BITS) - 1)

/* A frame word: uid << 24 | instruction index + 1 (0: before the first). */
#define CONPROF_FRAME_INSTRUCTION_BITS 24
#define CONPROF_FRAME_INSTRUCTION_MASK ((UINT64_C(1) << CONPROF_FRAME_INSTRUCTION_BITS) - 1)

static inline uint64_t
conprof_frame_word(uint64_t uid, uint64_t low)
{
    return uid << CONPROF_FRAME_INSTRUCTION_BITS | (low & CONPROF_FRAME_INSTRUCTION_MASK);
}

/* Walks in a row that may fail before the weight is charged to [unwalkable]. */
#define CONPROF_MAX_FAILURES 50u

/* A thread is not walked again before it has used so many times the CPU time that its last walk
 * took: what the handler takes is a tenth at most, however deep the stack is. */
#define CONPROF_LEAST_WORK 10u

/* Counters since the session began. written by: handlers, relaxed */
struct conprof_counters {
    _Atomic uint64_t signals;        /* timer signals handled */
    _Atomic uint64_t samples;        /* records emitted */
    _Atomic uint64_t carried_stale;  /* walks given up; weight carried */
    _Atomic uint64_t carried_full;   /* ring full; weight carried */
    _Atomic uint64_t carried_dear;   /* a walk would have cost too much already; weight carried */
    _Atomic uint64_t unwalkable;     /* walks given up for good */
    _Atomic uint64_t no_room;        /* signals on a stack too small for the handler; carried */
    _Atomic uint64_t truncated;      /* stacks cut */
    _Atomic uint64_t overruns;       /* periods that the kernel merged into one signal */
    _Atomic uint64_t foreign;        /* signals that no timer of ours sent: passed on */
    _Atomic uint64_t subinterpreter; /* samples in other interpreters */
    _Atomic uint64_t native;         /* samples of threads without Python state */
    _Atomic uint64_t handler_ns;     /* CPU time inside the handler */
    _Atomic uint64_t accounted_ns;   /* CPU time emitted or discarded */
};

struct conprof_sampler {
    struct conprof_ring ring;
    struct conprof_counters counters;
    atomic_bool is_active;           /* written by: session */
    atomic_bool is_paused;           /* written by: session */
    _Atomic uint32_t in_handler;     /* written by: handlers, hooks; threads now inside */
    _Atomic pid_t drain_tid;         /* written by: drain; 0 while none runs */
    atomic_bool drain_is_called;     /* written by: handlers and drain */
    _Atomic int signal_number;       /* written by: session, while nothing is armed */
    _Atomic int tested_timer;        /* written by: self-test; handlers, to the id of its timer */
    PyInterpreterState *interpreter; /* immutable while active: the only one sampled */
};

extern struct conprof_sampler conprof_sampler;

/* Any context but a handler, one thread at a time. Installs the handler, in front of whatever
 * stands there, and returns its signal, or -1 (signals.h). */
int conprof_sampler_install(void);

/* Any context. Does the handler of our signal still stand? */
bool conprof_sampler_is_installed(void);

/* Not in a handler; our signal blocked in the calling thread or its timer deleted.
 * Emits the CPU time since the calling thread's last sample with its present stack
 * and labels, counting as no event. */
void conprof_sampler_take_residue(struct conprof_thread *thread);

/* Session lock held. Emits the CPU time that a thread has used while no signal could reach it, if
 * there is any, as [not sampled]. */
void conprof_sampler_take_unreached(struct conprof_thread *thread);

/* Like conprof_sampler_take_residue, without a walk: the labels are those that stand
 * now, the stack is found when the window closes (residue.h). */
void conprof_sampler_take_labelled_residue(struct conprof_thread *thread);

/* Call the drain when the ring is this full. */
#define CONPROF_CALL_DRAIN_AT (CONPROF_RING_WORDS / 4)

/* SIGNAL-SAFE. Wakes the drain once until it has drained. */
void conprof_sampler_call_drain(void);

/* Not in a handler. Emits CPU time without a walk: `frame` is its whole stack. */
void conprof_sampler_emit(uint64_t frame, uint32_t name_id, uint64_t cpu_ns);

#endif
