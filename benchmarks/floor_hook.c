/* floor_hook.c: hooks that do nothing but call the next allocator, for cost.py.
 *
 * The difference to a program without hooks is what standing between a program and its allocator
 * costs, whoever does it and for whatever; only a hook that calls nobody can be below.
 */
#include <Python.h>

static PyMemAllocatorEx next[2];

#define HOOKS(name, i)                                                                             \
    static void *name##_malloc(void *ctx, size_t bytes)                                            \
    {                                                                                              \
        return next[i].malloc(ctx, bytes);                                                         \
    }                                                                                              \
    static void *name##_calloc(void *ctx, size_t elements, size_t size)                            \
    {                                                                                              \
        return next[i].calloc(ctx, elements, size);                                                \
    }                                                                                              \
    static void *name##_realloc(void *ctx, void *block, size_t bytes)                              \
    {                                                                                              \
        return next[i].realloc(ctx, block, bytes);                                                 \
    }                                                                                              \
    static void name##_free(void *ctx, void *block)                                                \
    {                                                                                              \
        next[i].free(ctx, block);                                                                  \
    }

HOOKS(mem, 0)
HOOKS(obj, 1)

/* GIL held. Once. */
void
install(void)
{
    PyMem_GetAllocator(PYMEM_DOMAIN_MEM, &next[0]);
    PyMem_GetAllocator(PYMEM_DOMAIN_OBJ, &next[1]);
    PyMemAllocatorEx mem = {next[0].ctx, mem_malloc, mem_calloc, mem_realloc, mem_free};
    PyMemAllocatorEx obj = {next[1].ctx, obj_malloc, obj_calloc, obj_realloc, obj_free};
    PyMem_SetAllocator(PYMEM_DOMAIN_MEM, &mem);
    PyMem_SetAllocator(PYMEM_DOMAIN_OBJ, &obj);
}
