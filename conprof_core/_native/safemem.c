/* safemem.c: process_vm_readv on ourselves. See safemem.h. */
#include "safemem.h"

#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "refusals.h"

_Atomic uint64_t conprof_refused[CONPROF_REFUSALS];

/* written by: conprof_safemem_init, before any handler can run */
static pid_t own_pid;

void
conprof_safemem_init(void)
{
    own_pid = getpid();
}

bool
conprof_safe_read(void *to, uintptr_t address, size_t size)
{
    struct iovec local = {to, size};
    struct iovec remote = {(void *)address, size}; /* NOLINT: an address, maybe a bad one */
    long got = syscall(SYS_process_vm_readv, (long)own_pid, &local, 1L, &remote, 1L, 0L);
    if (got < 0) {
        conprof_note_refusal(CONPROF_REFUSED_READ);
    }
    return got == (long)size;
}

uint32_t
conprof_safe_read_many(void *to, const struct iovec *places, uint32_t count)
{
    if (count == 0) {
        return 0;
    }
    struct iovec local = {to, count * places[0].iov_len};
    long got = syscall(SYS_process_vm_readv, (long)own_pid, &local, 1L, places, (long)count, 0L);
    if (got < 0) {
        conprof_note_refusal(CONPROF_REFUSED_READ);
    }
    return got <= 0 ? 0 : (uint32_t)((size_t)got / places[0].iov_len);
}
