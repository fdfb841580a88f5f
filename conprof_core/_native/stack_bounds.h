/* stack_bounds.h: how many bytes of stack our functions take from others.
 *
 * Threads of the application may have stacks of some KiB, and signals may come on stacks of their
 * own that are as small. So what runs there uncalled has these bounds: buffers live in the thread's
 * slot, or belong to a lock. tests/native/test_stack_bounds.py compares them with the compiler's
 * own numbers, along the deepest path, with what functions of libc and libpython take in the
 * handler and in the hooks.
 */
#ifndef CONPROF_STACK_BOUNDS_H
#define CONPROF_STACK_BOUNDS_H

/* From the handler's first instruction on: beside this the kernel puts the frame of the signal
 * there, whose size is AT_MINSIGSTKSZ of getauxval(3). With less than this below it, the handler
 * does nothing (stack_room.h). */
#define CONPROF_HANDLER_STACK_BYTES 1536

/* The hooks of the allocators, beside what the allocator that they call takes by itself. */
#define CONPROF_HOOK_STACK_BYTES 1280

/* What Python code calls in a thread of the application's: begin and end of a thread, labels,
 * requests, pauses of the collector, fork. Beside what functions of Python take that they call. */
#define CONPROF_CALL_STACK_BYTES 1536

/* The same for who starts, stops or flushes, which encodes a window in the calling thread. */
#define CONPROF_SESSION_STACK_BYTES 4096

#endif
