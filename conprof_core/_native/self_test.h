/* self_test.h: what must be true on this machine before the engine may run. */
#ifndef CONPROF_SELF_TEST_H
#define CONPROF_SELF_TEST_H

/* GIL held. NULL when everything holds (or a Python exception is set), else which
 * check failed, in words for the user. */
const char *conprof_self_test(void);

#endif
