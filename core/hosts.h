/*
 * The hosts file as an immutable, shared table: name to addresses in constant time.
 * Made by the resolver's own thread, read by every loop; pure but for the reference count.
 */
#ifndef MR_CORE_HOSTS_H
#define MR_CORE_HOSTS_H

#include "core/addrs.h"

struct mr_hosts;

/* Lines that are not "address name..." are passed over, as hosts(5) readers do. heap is shared. */
MOOR_NODISCARD moor_err mr_hosts_parse(struct mr_heap *heap, const char *text, size_t len,
                                       struct mr_hosts **out_);
struct mr_hosts *mr_hosts_ref(struct mr_hosts *h);
/* NULL is fine. Any thread. */
void mr_hosts_unref(struct mr_hosts *h);

/* name: lower case, no final dot. Returns how many addresses were written, in the file's order. */
uint32_t mr_hosts_find(const struct mr_hosts *h, const char *name, size_t len, struct mr_addr *out_,
                       uint32_t cap);

#endif
