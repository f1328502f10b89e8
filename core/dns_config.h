/*
 * Which name servers to ask and how: resolv.conf or the option dns_servers, as an immutable, shared
 * value. Made by the resolver's own thread; pure but for the reference count.
 */
#ifndef MR_CORE_DNS_CONFIG_H
#define MR_CORE_DNS_CONFIG_H

#include "core/addrs.h"

#define MR_DNS_SERVERS_MAX 8 /* also bounds the sockets of a channel: one UDP and one TCP each */
#define MR_DNS_DOMAINS_MAX 8
#define MR_DNS_NAME_CAP    256 /* 253 characters (RFC 1035 2.3.4), a final dot, the terminator */
#define MR_DNS_TIMEOUT_MS                                                                          \
    2000 /* where nobody says: a lost packet must not eat a connect timeout \
                                 */
#define MR_DNS_TRIES 3

struct mr_dns_config {
    struct mr_heap *heap; /* shared */
    _Atomic(uint32_t) refs;
    uint32_t server_count; /* at least 1 */
    uint32_t domain_count;
    uint32_t ndots;
    uint32_t timeout_ms;
    uint32_t tries;
    bool is_rotating;
    struct mr_addr servers[MR_DNS_SERVERS_MAX];
    char domains[MR_DNS_DOMAINS_MAX][MR_DNS_NAME_CAP];
};

/* text: resolv.conf's, may be empty. servers: the option that overrides its name servers, NULL or
 * "" = none. timeout_ms and tries: 0 = what the file says. EINVAL: servers is not a list of
 * addresses. */
MOOR_NODISCARD moor_err mr_dns_config_create(struct mr_heap *heap, moor_span text,
                                             const char *servers, uint32_t timeout_ms,
                                             uint32_t tries, struct mr_dns_config **out_);
struct mr_dns_config *mr_dns_config_ref(struct mr_dns_config *c);
/* NULL is fine. Any thread. */
void mr_dns_config_unref(struct mr_dns_config *c);
bool mr_dns_config_is_equal(const struct mr_dns_config *a, const struct mr_dns_config *b);

/* The names to ask for `name`, in order: itself and itself under the search domains
 * (resolv.conf(5)). Writes candidate number i, false when there is none. Candidates that grow too
 * long are empty. */
bool mr_dns_config_candidate(const struct mr_dns_config *c, const char *name, uint32_t i,
                             char out_[MR_DNS_NAME_CAP]);

#endif
