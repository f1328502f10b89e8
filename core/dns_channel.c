/*
 * c-ares on a loop. Runs only on the loop's thread; owns the channel, its polls and its timer.
 * Never lets c-ares read files, allocate from our heap or close a descriptor that is still polled.
 */
#include "core/dns_channel.h"

#include "base/assert.h"

#include <ares.h>
#include <arpa/nameser.h>
#include <poll.h>
#include <string.h>
#include <sys/time.h>

/* One descriptor c-ares wants watched. */
struct watch {
    struct mr_dns_channel *channel;
    int fd;           /* -1 = free */
    uint32_t mask;    /* POLLIN, POLLOUT */
    uint64_t poll_id; /* 0 = not polled at the moment */
};

/* One question on its way: c-ares cannot take one back, so this outlives whoever asked. */
struct question {
    struct mr_dns_channel *channel;
    mr_dns_reply_fn fn;
    void *ctx;
    int family;
};

struct mr_dns_channel {
    struct mr_loop *loop;
    struct mr_dns_config *config;
    ares_channel ares;
    struct mr_timer timer;
    uint32_t pending;
    bool is_blind; /* a poll could not be armed for lack of memory: look at the sockets by timer */
    struct watch
        watches[2 * MR_DNS_SERVERS_MAX]; /* c-ares has one UDP and one TCP socket a server */
};

/* How often sockets are looked at while is_blind. */
#define BLIND_NS (INT64_C(10) * MR_NS_PER_MS)

static void on_socket_state(void *ctx, ares_socket_t fd, int readable, int writable);
static void on_poll(void *ctx, uint32_t events);
static void on_timer(struct mr_timer *t, int64_t now_ns);
static void on_answer(void *ctx, int status, int timeouts, unsigned char *msg, int len);
static void arm_watch(struct watch *w);
static void arm_timer(struct mr_dns_channel *ch);

/* Everything c-ares would otherwise look up in files or the environment is given, so that it reads
 * none. */
static int open_ares(struct mr_dns_channel *ch)
{
    struct in_addr placeholder = {htonl(INADDR_LOOPBACK)};
    char lookups[] = "b"; /* DNS only: hosts is ours */
    struct ares_options o = {
        .timeout = (int)ch->config->timeout_ms,
        .tries = (int)ch->config->tries,
        .ndots = 1,
        .lookups = lookups,
        .servers = &placeholder,
        .nservers = 1,
        .sock_state_cb = on_socket_state,
        .sock_state_cb_data = ch,
    };
    int mask = ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_NDOTS | ARES_OPT_DOMAINS |
               ARES_OPT_LOOKUPS | ARES_OPT_SORTLIST | ARES_OPT_SERVERS | ARES_OPT_SOCK_STATE_CB |
               (ch->config->is_rotating ? ARES_OPT_ROTATE : ARES_OPT_NOROTATE);
    int status = ares_init_options(&ch->ares, &o, mask);
    if (status != ARES_SUCCESS)
        return status;

    struct ares_addr_port_node nodes[MR_DNS_SERVERS_MAX];
    memset(nodes, 0, sizeof nodes);
    for (uint32_t i = 0; i < ch->config->server_count; i++) {
        const struct mr_addr *a = &ch->config->servers[i];
        struct ares_addr_port_node *n = &nodes[i];
        n->next = i + 1 < ch->config->server_count ? n + 1 : NULL;
        n->family = a->sa.sa_family;
        n->udp_port = n->tcp_port = mr_addr_port(a);
        if (n->family == AF_INET)
            n->addr.addr4 = a->in.sin_addr;
        else
            memcpy(&n->addr.addr6, &a->in6.sin6_addr, sizeof n->addr.addr6);
    }
    status = ares_set_servers_ports(ch->ares, nodes);
    if (status != ARES_SUCCESS)
        ares_destroy(ch->ares);
    return status;
}

moor_err mr_dns_channel_create(struct mr_loop *l, struct mr_dns_config *c,
                               struct mr_dns_channel **out_)
{
    struct mr_dns_channel *ch = mr_heap_zalloc(l->heap, sizeof *ch);
    if (!ch)
        return MOOR_ENOMEM;
    ch->loop = l;
    ch->config = c;
    ch->timer.fire = on_timer;
    for (size_t i = 0; i < sizeof ch->watches / sizeof *ch->watches; i++) {
        ch->watches[i].channel = ch;
        ch->watches[i].fd = -1;
    }
    /* ares_library_init is not called: on Linux it only counts, and would race with the host
     * program's. */
    if (open_ares(ch) != ARES_SUCCESS) {
        mr_heap_free(l->heap, ch, sizeof *ch);
        return MOOR_ENOMEM;
    }
    mr_dns_config_ref(c);
    *out_ = ch;
    return MOOR_OK;
}

void mr_dns_channel_destroy(struct mr_dns_channel *ch)
{
    if (!ch)
        return;
    ares_destroy(ch->ares);
    MR_ASSERT(ch->pending == 0);
    for (size_t i = 0; i < sizeof ch->watches / sizeof *ch->watches; i++)
        MR_ASSERT(ch->watches[i].fd < 0 && "c-ares tells of every socket before it closes it");
    mr_loop_untimer(ch->loop, &ch->timer);
    mr_dns_config_unref(ch->config);
    mr_heap_free(ch->loop->heap, ch, sizeof *ch);
}

void mr_dns_channel_query(struct mr_dns_channel *ch, const char *name, int family,
                          mr_dns_reply_fn fn, void *ctx)
{
    struct question *q = mr_heap_alloc(ch->loop->heap, sizeof *q);
    if (!q) {
        fn(ctx, &(struct mr_dns_reply){.status = MR_DNS_NO_MEMORY});
        return;
    }
    *q = (struct question){.channel = ch, .fn = fn, .ctx = ctx, .family = family};
    ch->pending++;
    ares_query(ch->ares, name, ns_c_in, family == AF_INET ? ns_t_a : ns_t_aaaa, on_answer, q);
    arm_timer(ch);
}

const struct mr_dns_config *mr_dns_channel_config(const struct mr_dns_channel *ch)
{
    return ch->config;
}

uint32_t mr_dns_channel_pending(const struct mr_dns_channel *ch)
{
    return ch->pending;
}

/* c-ares 1.18 calls this with 0, 0 before it closes the descriptor, not after. */
static void on_socket_state(void *ctx, ares_socket_t fd, int readable, int writable)
{
    struct mr_dns_channel *ch = ctx;
    struct watch *w = NULL;
    uint32_t mask = (readable ? POLLIN : 0u) | (writable ? POLLOUT : 0u);
    for (size_t i = 0; i < sizeof ch->watches / sizeof *ch->watches; i++) {
        struct watch *at = &ch->watches[i];
        if (at->fd == fd) {
            w = at;
            break;
        }
        if (at->fd < 0 && !w)
            w = at;
    }
    MR_ASSERT(w && "two sockets a server is what c-ares opens");
    if (w->fd < 0 && mask == 0)
        return;
    if (w->poll_id)
        mr_io_poll_cancel(ch->loop->io, w->poll_id);
    w->poll_id = 0;
    w->mask = mask;
    w->fd = mask ? fd : -1;
    arm_watch(w);
}

static void arm_watch(struct watch *w)
{
    if (w->fd < 0 || w->poll_id)
        return;
    w->poll_id = mr_io_poll(w->channel->loop->io, w->fd, w->mask, on_poll, w);
    if (!w->poll_id)
        w->channel->is_blind = true;
}

static void on_poll(void *ctx, uint32_t events)
{
    struct watch *w = ctx;
    struct mr_dns_channel *ch = w->channel;
    int fd = w->fd;
    MR_ASSERT(fd >= 0);
    w->poll_id = 0;
    /* An error is found by trying: c-ares then closes the socket and goes to the next server. */
    bool is_failed = events & (POLLERR | POLLHUP | POLLNVAL);
    bool can_read = (w->mask & POLLIN) && (is_failed || (events & POLLIN));
    bool can_write = (w->mask & POLLOUT) && (is_failed || (events & POLLOUT));
    ares_process_fd(ch->ares, can_read ? fd : ARES_SOCKET_BAD, can_write ? fd : ARES_SOCKET_BAD);
    /* One-shot: armed again unless c-ares closed it, or changed it and so armed it already. */
    arm_watch(w);
    arm_timer(ch);
}

static void on_timer(struct mr_timer *t, int64_t now_ns)
{
    (void)now_ns;
    struct mr_dns_channel *ch = MR_CONTAINER_OF(t, struct mr_dns_channel, timer);
    ch->is_blind = false;
    ares_process_fd(ch->ares, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
    for (size_t i = 0; i < sizeof ch->watches / sizeof *ch->watches; i++) {
        struct watch *w = &ch->watches[i];
        if (w->fd >= 0 && !w->poll_id)
            ares_process_fd(ch->ares, w->mask & POLLIN ? w->fd : ARES_SOCKET_BAD,
                            w->mask & POLLOUT ? w->fd : ARES_SOCKET_BAD);
        arm_watch(w);
    }
    arm_timer(ch);
}

static void arm_timer(struct mr_dns_channel *ch)
{
    struct timeval tv;
    int64_t at = MR_NEVER;
    if (ares_timeout(ch->ares, NULL, &tv)) {
        int64_t in = tv.tv_sec * MR_NS_PER_SEC + tv.tv_usec * MR_NS_PER_US;
        /* c-ares counts down to 0 and still waits for the clock to pass: never spin on it. */
        at = ch->loop->now_ns + (in > MR_NS_PER_MS ? in : MR_NS_PER_MS);
    }
    if (ch->is_blind && at > ch->loop->now_ns + BLIND_NS)
        at = ch->loop->now_ns + BLIND_NS;
    mr_loop_timer(ch->loop, &ch->timer, at);
}

static enum mr_dns_status to_status(int status)
{
    switch (status) {
    case ARES_SUCCESS:
        return MR_DNS_OK;
    case ARES_ENOTFOUND:
        return MR_DNS_NO_NAME;
    case ARES_ENODATA:
        return MR_DNS_NO_DATA;
    case ARES_ETIMEOUT:
        return MR_DNS_SILENT;
    case ARES_ESERVFAIL:
    case ARES_EREFUSED:
    case ARES_ENOTIMP:
    case ARES_ECONNREFUSED:
        return MR_DNS_REFUSED;
    case ARES_ENOMEM:
        return MR_DNS_NO_MEMORY;
    case ARES_EBADNAME:
        return MR_DNS_BAD_NAME;
    case ARES_EDESTRUCTION:
    case ARES_ECANCELLED:
        return MR_DNS_GONE;
    default:
        return MR_DNS_NONSENSE;
    }
}

static int parse_a(const unsigned char *msg, int len, struct mr_addr *list, struct mr_dns_reply *r)
{
    struct ares_addrttl records[MR_ADDRS_MAX];
    int count = MR_ADDRS_MAX;
    int status = ares_parse_a_reply(msg, len, NULL, records, &count);
    if (status != ARES_SUCCESS)
        return status;
    for (int i = 0; i < count; i++) {
        mr_addr_from_ipv4(records[i].ipaddr, &list[i]);
        uint32_t ttl = records[i].ttl > 0 ? (uint32_t)records[i].ttl : 0;
        r->ttl_s = ttl < r->ttl_s ? ttl : r->ttl_s;
    }
    r->count = (uint32_t)count;
    return ARES_SUCCESS;
}

static int parse_aaaa(const unsigned char *msg, int len, struct mr_addr *list,
                      struct mr_dns_reply *r)
{
    struct ares_addr6ttl records[MR_ADDRS_MAX];
    int count = MR_ADDRS_MAX;
    int status = ares_parse_aaaa_reply(msg, len, NULL, records, &count);
    if (status != ARES_SUCCESS)
        return status;
    for (int i = 0; i < count; i++) {
        struct in6_addr ip;
        _Static_assert(sizeof ip == sizeof records[i].ip6addr, "the same 16 bytes");
        memcpy(&ip, &records[i].ip6addr, sizeof ip);
        mr_addr_from_ipv6(&ip, &list[i]);
        uint32_t ttl = records[i].ttl > 0 ? (uint32_t)records[i].ttl : 0;
        r->ttl_s = ttl < r->ttl_s ? ttl : r->ttl_s;
    }
    r->count = (uint32_t)count;
    return ARES_SUCCESS;
}

static void on_answer(void *ctx, int status, int timeouts, unsigned char *msg, int len)
{
    (void)timeouts;
    struct question q = *(struct question *)ctx;
    MR_ASSERT(q.channel->pending > 0);
    q.channel->pending--;
    mr_heap_free(q.channel->loop->heap, ctx, sizeof(struct question));

    struct mr_addr list[MR_ADDRS_MAX];
    struct mr_dns_reply r = {.ttl_s = UINT32_MAX, .list = list};
    if (status == ARES_SUCCESS)
        status = q.family == AF_INET ? parse_a(msg, len, list, &r) : parse_aaaa(msg, len, list, &r);
    r.status = to_status(status);
    if (r.status == MR_DNS_OK && r.count == 0)
        r.status = MR_DNS_NO_DATA;
    q.fn(q.ctx, &r);
}
