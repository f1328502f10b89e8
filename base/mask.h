/*
 * Secrets out of texts before anybody sees them. Pure; any thread.
 */
#ifndef MR_BASE_MASK_H
#define MR_BASE_MASK_H

#include <mooring/types.h>

/*
 * Copies text for a log: passwords of URLs, and what follows words such as "password=" or
 * "Authorization:", become "***"; bytes that are not printable ASCII become '?', so that a peer
 * cannot forge a line. Cut to fit (cap > 0), always ends in NUL. May print less than it could,
 * never a secret it knows. Returns buf.
 */
const char *mr_mask(moor_span text, char *buf, size_t cap);

#endif
