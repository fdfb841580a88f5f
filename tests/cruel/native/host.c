/* Loads libpython late, as mod_wsgi and plugins do, and is a Python from then on.
 * usage: host LIBPYTHON PYTHON ARGUMENT... */
#include <dlfcn.h>
#include <stdio.h>

int
main(int count, char **arguments)
{
    void *library = count > 2 ? dlopen(arguments[1], RTLD_NOW | RTLD_GLOBAL) : NULL;
    int (*run)(int, char **) = NULL;
    if (library != NULL) {
        *(void **)&run = dlsym(library, "Py_BytesMain");
    }
    if (run == NULL) {
        fprintf(stderr, "%s\n", count > 2 ? dlerror() : "no library named");
        return 99;
    }
    return run(count - 2, arguments + 2);
}
