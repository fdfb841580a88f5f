/* safemem.h: reading memory that may not be there.
 *
 * conprof installs no SIGSEGV or SIGBUS handler: guarded loads clash with
 * faulthandler, PyTorch, abseil and every crash reporter. The kernel copies
 * instead, and reports a bad address as an error.
 */
#ifndef CONPROF_SAFEMEM_H
#define CONPROF_SAFEMEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

/* Remember the process id the reads are for. Call at start and after fork. */
void conprof_safemem_init(void);

/* SIGNAL-SAFE, any thread. Copies `size` bytes from `address` to `to`; false when any of
 * them cannot be read. One system call. Never touches errno's caller-visible
 * value because the handler saves it. */
bool conprof_safe_read(void *to, uintptr_t address, size_t size);

/* SIGNAL-SAFE, any thread. Copies `count` places of one size, at most IOV_MAX, to `to`, side by
 * side, by one system call. Returns how many it could: it stops at the first that cannot be read.
 * `places` is left as it was. */
uint32_t conprof_safe_read_many(void *to, const struct iovec *places, uint32_t count);

#endif
