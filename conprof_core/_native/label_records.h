/* label_records.h: what labels.c needs of label_records.c and nobody else. */
#ifndef CONPROF_LABEL_RECORDS_H
#define CONPROF_LABEL_RECORDS_H

#include "labels.h"

bool conprof_label_records_init(void);

/* GIL held; takes the session lock. The one record of these pairs (sorted by key),
 * counted for the caller; the overflow record when there is no room. */
struct conprof_label_record *conprof_label_records_intern(const struct conprof_label *labels,
                                                          uint32_t count);

/* GIL held; takes the session lock. Samples of this cell in the open window get
 * these labels. */
void conprof_label_records_bind(uint64_t cell_id, struct conprof_label_record *record);

#endif
