/*
 * One c-ares channel on one loop: questions for one type of record out, addresses back.
 * Owner thread of the loop only. Its sockets are polled by the loop's backend, its timeouts by the
 * wheel.
 */
#ifndef MR_CORE_DNS_CHANNEL_H
#define MR_CORE_DNS_CHANNEL_H

#include "core/dns_config.h"
#include "core/loop.h"

enum mr_dns_status {
    MR_DNS_OK,
    MR_DNS_NO_NAME,  /* NXDOMAIN */
    MR_DNS_NO_DATA,  /* the name has no record of this type */
    MR_DNS_SILENT,   /* no server answered in time */
    MR_DNS_REFUSED,  /* every server refused, failed or could not be reached */
    MR_DNS_NONSENSE, /* an answer that cannot be read */
    MR_DNS_BAD_NAME, /* cannot be asked for */
    MR_DNS_NO_MEMORY,
    MR_DNS_GONE, /* the channel was destroyed first */
};

struct mr_dns_reply {
    enum mr_dns_status status;
    uint32_t ttl_s; /* the least of what was followed; OK only */
    uint32_t count; /* 1.. for OK, else 0 */
    const struct mr_addr *list;
};

/* May run inside mr_dns_channel_query and _destroy. May start queries, must not destroy the
 * channel. */
typedef void (*mr_dns_reply_fn)(void *ctx, const struct mr_dns_reply *r);

struct mr_dns_channel;

/* Opens no socket and reads no file. Takes a reference of c. */
MOOR_NODISCARD moor_err mr_dns_channel_create(struct mr_loop *l, struct mr_dns_config *c,
                                              struct mr_dns_channel **out_);
/* Every reply still due comes with MR_DNS_GONE. Not from inside a reply. NULL is fine. */
void mr_dns_channel_destroy(struct mr_dns_channel *ch);

/* family: AF_INET asks for A, AF_INET6 for AAAA. One reply for each question. */
void mr_dns_channel_query(struct mr_dns_channel *ch, const char *name, int family,
                          mr_dns_reply_fn fn, void *ctx);

const struct mr_dns_config *mr_dns_channel_config(const struct mr_dns_channel *ch);
/* Replies still due. */
uint32_t mr_dns_channel_pending(const struct mr_dns_channel *ch);

#endif
