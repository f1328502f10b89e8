/*
 * resolv.conf and dns_servers, parsed. Any thread: a configuration is never written once returned.
 * Reads no file itself. c-ares' own parser is not used: 1.18 knows neither timeout: nor attempts:.
 */
#include "core/dns_config.h"

#include "base/assert.h"
#include "base/span.h"

#include <arpa/inet.h>
#include <string.h>

static const char blanks[] = " \t\r";

static moor_span next_word(moor_span *line)
{
    const char *c = line->base;
    const char *end = c + line->len;
    while (c < end && memchr(blanks, *c, sizeof blanks - 1))
        c++;
    const char *start = c;
    while (c < end && !memchr(blanks, *c, sizeof blanks - 1))
        c++;
    *line = (moor_span){c, (size_t)(end - c)};
    return (moor_span){start, (size_t)(c - start)};
}

static void add_server(struct mr_dns_config *c, const struct mr_addr *a)
{
    /* c-ares has no room for a scope: a link-local server cannot be asked. */
    bool has_scope = a->sa.sa_family == AF_INET6 && a->in6.sin6_scope_id != 0;
    if (!has_scope && c->server_count < MR_DNS_SERVERS_MAX)
        c->servers[c->server_count++] = *a;
}

/* "192.0.2.1", "192.0.2.1:53", "2001:db8::1", "[2001:db8::1]:53". */
static moor_err parse_server(moor_span s, struct mr_addr *out_)
{
    if (mr_addr_parse(s.base, s.len, out_) == MOOR_OK)
        return MOOR_OK;
    const char *text = s.base;
    const char *colon = memrchr(text, ':', s.len);
    MR_FAIL_IF(!colon, MOOR_EINVAL);
    uint64_t port;
    moor_span digits = mr_span_skip(s, (size_t)(colon - text) + 1);
    MR_FAIL_IF(!mr_span_to_u64(digits, &port) || port == 0 || port > 65535, MOOR_EINVAL);
    MR_TRY(mr_addr_parse(text, (size_t)(colon - text), out_));
    mr_addr_set_port(out_, (uint16_t)port);
    return MOOR_OK;
}

static moor_err parse_servers(struct mr_dns_config *c, const char *servers)
{
    for (const char *at = servers; *at;) {
        size_t len = strcspn(at, ", ");
        struct mr_addr a;
        if (len > 0) {
            MR_TRY(parse_server((moor_span){at, len}, &a));
            add_server(c, &a);
        }
        at += len + (at[len] != 0);
    }
    return c->server_count ? MOOR_OK : MOOR_EINVAL;
}

static void parse_domains(struct mr_dns_config *c, moor_span line)
{
    c->domain_count = 0; /* the last search or domain line counts */
    for (moor_span w = next_word(&line); w.len; w = next_word(&line)) {
        if (((const char *)w.base)[w.len - 1] == '.')
            w.len--;
        if (w.len == 0 || w.len > 253 || c->domain_count == MR_DNS_DOMAINS_MAX)
            continue;
        memcpy(c->domains[c->domain_count], w.base, w.len);
        c->domains[c->domain_count++][w.len] = 0;
    }
}

static bool parse_number(moor_span word, moor_span key, uint64_t max, uint32_t *out_)
{
    uint64_t n;
    if (word.len <= key.len || memcmp(word.base, key.base, key.len) != 0 ||
        !mr_span_to_u64(mr_span_skip(word, key.len), &n))
        return false;
    *out_ = (uint32_t)(n < max ? n : max);
    return true;
}

static void parse_options(struct mr_dns_config *c, moor_span line)
{
    /* The maxima are resolv.conf(5)'s. */
    for (moor_span w = next_word(&line); w.len; w = next_word(&line)) {
        uint32_t seconds;
        if (parse_number(w, MR_SPAN("timeout:"), 30, &seconds))
            c->timeout_ms = seconds * 1000;
        else if (mr_span_is_equal(w, MR_SPAN("rotate")))
            c->is_rotating = true;
        else if (!parse_number(w, MR_SPAN("ndots:"), 15, &c->ndots))
            (void)parse_number(w, MR_SPAN("attempts:"), 5, &c->tries);
    }
}

static void parse_file(struct mr_dns_config *c, moor_span text, bool wants_servers)
{
    const char *at = text.base;
    const char *end = at + text.len;
    while (at < end) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        moor_span line = {at, (size_t)((stop ? stop : end) - at)};
        at = stop ? stop + 1 : end;
        moor_span key = next_word(&line);
        struct mr_addr a;
        if (key.len == 0)
            continue;
        if (mr_span_is_equal(key, MR_SPAN("nameserver"))) {
            moor_span w = next_word(&line);
            if (wants_servers && w.len && mr_addr_parse(w.base, w.len, &a) == MOOR_OK)
                add_server(c, &a);
        } else if (mr_span_is_equal(key, MR_SPAN("search")) ||
                   mr_span_is_equal(key, MR_SPAN("domain"))) {
            parse_domains(c, line);
        } else if (mr_span_is_equal(key, MR_SPAN("options"))) {
            parse_options(c, line);
        }
    }
}

moor_err mr_dns_config_create(struct mr_heap *heap, moor_span text, const char *servers,
                              uint32_t timeout_ms, uint32_t tries, struct mr_dns_config **out_)
{
    struct mr_dns_config *c = mr_heap_zalloc(heap, sizeof *c);
    if (!c)
        return MOOR_ENOMEM;
    c->heap = heap;
    atomic_init(&c->refs, 1);
    c->ndots = 1;
    bool is_overridden = servers && servers[0];
    if (text.len)
        parse_file(c, text, !is_overridden);
    if (is_overridden && parse_servers(c, servers) != MOOR_OK) {
        mr_dns_config_unref(c);
        return MOOR_EINVAL;
    }
    if (c->server_count == 0)
        mr_addr_from_ipv4((struct in_addr){htonl(INADDR_LOOPBACK)}, &c->servers[c->server_count++]);
    if (timeout_ms || c->timeout_ms == 0)
        c->timeout_ms = timeout_ms ? timeout_ms : MR_DNS_TIMEOUT_MS;
    if (tries || c->tries == 0)
        c->tries = tries ? tries : MR_DNS_TRIES;
    *out_ = c;
    return MOOR_OK;
}

struct mr_dns_config *mr_dns_config_ref(struct mr_dns_config *c)
{
    atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
    return c;
}

void mr_dns_config_unref(struct mr_dns_config *c)
{
    if (c && atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) == 1)
        mr_heap_free(c->heap, c, sizeof *c);
}

bool mr_dns_config_is_equal(const struct mr_dns_config *a, const struct mr_dns_config *b)
{
    if (a->server_count != b->server_count || a->domain_count != b->domain_count ||
        a->ndots != b->ndots || a->timeout_ms != b->timeout_ms || a->tries != b->tries ||
        a->is_rotating != b->is_rotating)
        return false;
    for (uint32_t i = 0; i < a->server_count; i++)
        if (!mr_addr_is_equal(&a->servers[i], &b->servers[i]))
            return false;
    for (uint32_t i = 0; i < a->domain_count; i++)
        if (strcmp(a->domains[i], b->domains[i]) != 0)
            return false;
    return true;
}

bool mr_dns_config_candidate(const struct mr_dns_config *c, const char *name, uint32_t i,
                             char out_[MR_DNS_NAME_CAP])
{
    size_t len = strlen(name);
    MR_ASSERT(len > 0 && len < MR_DNS_NAME_CAP);
    bool is_absolute = name[len - 1] == '.';
    uint32_t dots = 0;
    for (size_t k = 0; k < len; k++)
        dots += name[k] == '.';
    uint32_t domains = is_absolute ? 0 : c->domain_count;
    if (i > domains)
        return false;

    uint32_t itself = dots >= c->ndots ? 0 : domains;
    if (i == itself) {
        memcpy(out_, name, len + 1);
        return true;
    }
    const char *domain = c->domains[i < itself ? i : i - 1];
    size_t domain_len = strlen(domain);
    out_[0] = 0;
    if (len + 1 + domain_len <= 253) {
        memcpy(out_, name, len);
        out_[len] = '.';
        memcpy(out_ + len + 1, domain, domain_len + 1);
    }
    return true;
}
