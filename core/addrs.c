/*
 * Address values and shared lists of them. Pure but for the reference count: any thread.
 * Never asks the network; a list is never written again once it was returned.
 */
#include "core/addrs.h"

#include "base/assert.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>

static size_t list_bytes(uint32_t count)
{
    return sizeof(struct mr_addrs) + count * sizeof(struct mr_addr);
}

static uint32_t copy_without_repeats(struct mr_addr *to, const struct mr_addr *from, uint32_t count)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t k = 0;
        while (k < kept && !mr_addr_is_equal(&to[k], &from[i]))
            k++;
        if (k == kept)
            to[kept++] = from[i];
    }
    return kept;
}

struct mr_addrs *mr_addrs_create(struct mr_heap *heap, const struct mr_addr *list, uint32_t count,
                                 int64_t expires_ns)
{
    MR_ASSERT(count > 0 && count <= MR_ADDRS_MAX);
    struct mr_addr distinct[MR_ADDRS_MAX];
    count = copy_without_repeats(distinct, list, count);

    struct mr_addrs *a = mr_heap_alloc(heap, list_bytes(count));
    if (!a)
        return NULL;
    a->heap = heap;
    atomic_init(&a->refs, 1);
    a->count = count;
    a->expires_ns = expires_ns;
    memcpy(a->list, distinct, count * sizeof *a->list);
    mr_addrs_order(a->list, count);
    return a;
}

struct mr_addrs *mr_addrs_ref(struct mr_addrs *a)
{
    uint32_t before = atomic_fetch_add_explicit(&a->refs, 1, memory_order_relaxed);
    MR_ASSERT(before > 0 && before < UINT32_MAX);
    return a;
}

void mr_addrs_unref(struct mr_addrs *a)
{
    if (!a)
        return;
    /* Release what we read of it, acquire what others did, before the memory goes. */
    uint32_t before = atomic_fetch_sub_explicit(&a->refs, 1, memory_order_acq_rel);
    MR_ASSERT(before > 0);
    if (before == 1)
        mr_heap_free(a->heap, a, list_bytes(a->count));
}

/* RFC 6724 2.1, the default policy table's precedences. */
static int precedence(const struct mr_addr *a)
{
    if (a->sa.sa_family != AF_INET6)
        return 35;
    const uint8_t *b = a->in6.sin6_addr.s6_addr;
    if (IN6_IS_ADDR_LOOPBACK(&a->in6.sin6_addr))
        return 50;
    if (IN6_IS_ADDR_V4MAPPED(&a->in6.sin6_addr))
        return 35;
    if (b[0] == 0x20 && b[1] == 0x02)
        return 30; /* 6to4 */
    if (b[0] == 0x20 && b[1] == 0x01 && b[2] == 0 && b[3] == 0)
        return 5; /* Teredo */
    if ((b[0] & 0xfe) == 0xfc)
        return 3; /* unique local */
    if (IN6_IS_ADDR_V4COMPAT(&a->in6.sin6_addr) || (b[0] == 0xfe && (b[1] & 0xc0) == 0xc0) ||
        (b[0] == 0x3f && b[1] == 0xfe))
        return 1; /* long deprecated: v4-compatible, site local, 6bone */
    return 40;
}

static void sort_by_precedence(struct mr_addr *list, uint32_t count)
{
    for (uint32_t i = 1; i < count; i++) {
        struct mr_addr a = list[i];
        int p = precedence(&a);
        uint32_t k = i;
        for (; k > 0 && precedence(&list[k - 1]) < p; k--)
            list[k] = list[k - 1];
        list[k] = a;
    }
}

void mr_addrs_order(struct mr_addr *list, uint32_t count)
{
    MR_ASSERT(count <= MR_ADDRS_MAX);
    if (count < 2)
        return;
    sort_by_precedence(list, count);

    struct mr_addr sorted[MR_ADDRS_MAX];
    memcpy(sorted, list, count * sizeof *list);
    sa_family_t first = sorted[0].sa.sa_family;
    uint32_t next[2] = {0, 0}; /* of the first family, of the others */
    for (uint32_t i = 0; i < count; i++) {
        uint32_t want = i & 1;
        for (uint32_t turn = 0; turn < 2; turn++, want ^= 1) {
            uint32_t *n = &next[want];
            while (*n < count && (sorted[*n].sa.sa_family != first) != (want == 1))
                ++*n;
            if (*n < count) {
                list[i] = sorted[(*n)++];
                break;
            }
        }
    }
}

static bool parse_scope(const char *text, uint32_t *out_)
{
    uint32_t n = 0;
    size_t len = strlen(text);
    if (len == 0 || len >= IF_NAMESIZE)
        return false;
    if (strspn(text, "0123456789") != len)
        return (*out_ = if_nametoindex(text)) != 0;
    for (const char *c = text; *c; c++) {
        if (n > (UINT32_MAX - (uint32_t)(*c - '0')) / 10)
            return false;
        n = n * 10 + (uint32_t)(*c - '0');
    }
    *out_ = n;
    return true;
}

moor_err mr_addr_parse(const char *text, size_t len, struct mr_addr *out_)
{
    char buf[INET6_ADDRSTRLEN + IF_NAMESIZE];
    bool is_bracketed = len >= 2 && text[0] == '[' && text[len - 1] == ']';
    if (is_bracketed) {
        text++;
        len -= 2;
    }
    if (len == 0 || len >= sizeof buf || memchr(text, 0, len))
        return MOOR_EINVAL;
    memcpy(buf, text, len);
    buf[len] = 0;

    struct in_addr v4;
    if (!is_bracketed && inet_pton(AF_INET, buf, &v4) == 1) {
        mr_addr_from_ipv4(v4, out_);
        return MOOR_OK;
    }
    uint32_t scope = 0;
    char *percent = memchr(buf, '%', len);
    if (percent)
        *percent = 0;
    struct in6_addr v6;
    if (inet_pton(AF_INET6, buf, &v6) != 1 || (percent && !parse_scope(percent + 1, &scope)))
        return MOOR_EINVAL;
    mr_addr_from_ipv6(&v6, out_);
    out_->in6.sin6_scope_id = scope;
    return MOOR_OK;
}

moor_err mr_addr_from_path(const char *path, size_t len, struct mr_addr *out_)
{
    bool is_abstract = len > 0 && path[0] == '@';
    /* A path keeps its final zero, an abstract name has none (unix(7)). */
    size_t room = sizeof out_->un.sun_path - (is_abstract ? 0 : 1);
    if (len == 0 || (is_abstract && len == 1) || len > room || memchr(path, 0, len))
        return MOOR_EINVAL;
    memset(out_, 0, sizeof *out_);
    out_->un.sun_family = AF_UNIX;
    memcpy(out_->un.sun_path, path, len);
    if (is_abstract)
        out_->un.sun_path[0] = 0;
    out_->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + (is_abstract ? 0 : 1));
    return MOOR_OK;
}

void mr_addr_from_ipv4(struct in_addr ip, struct mr_addr *out_)
{
    memset(out_, 0, sizeof *out_);
    out_->in.sin_family = AF_INET;
    out_->in.sin_addr = ip;
    out_->len = sizeof out_->in;
}

void mr_addr_from_ipv6(const struct in6_addr *ip, struct mr_addr *out_)
{
    memset(out_, 0, sizeof *out_);
    out_->in6.sin6_family = AF_INET6;
    out_->in6.sin6_addr = *ip;
    out_->len = sizeof out_->in6;
}

void mr_addr_set_port(struct mr_addr *a, uint16_t port)
{
    if (a->sa.sa_family == AF_INET)
        a->in.sin_port = htons(port);
    else if (a->sa.sa_family == AF_INET6)
        a->in6.sin6_port = htons(port);
}

uint16_t mr_addr_port(const struct mr_addr *a)
{
    if (a->sa.sa_family == AF_INET)
        return ntohs(a->in.sin_port);
    return a->sa.sa_family == AF_INET6 ? ntohs(a->in6.sin6_port) : 0;
}

bool mr_addr_is_equal(const struct mr_addr *a, const struct mr_addr *b)
{
    if (a->sa.sa_family != b->sa.sa_family || a->len != b->len)
        return false;
    if (a->sa.sa_family == AF_INET)
        return a->in.sin_addr.s_addr == b->in.sin_addr.s_addr && a->in.sin_port == b->in.sin_port;
    if (a->sa.sa_family == AF_INET6)
        return IN6_ARE_ADDR_EQUAL(&a->in6.sin6_addr, &b->in6.sin6_addr) &&
               a->in6.sin6_port == b->in6.sin6_port && a->in6.sin6_scope_id == b->in6.sin6_scope_id;
    return memcmp(&a->un, &b->un, a->len) == 0;
}

static void unix_text(const struct mr_addr *a, char buf[MR_ADDR_TEXT_CAP])
{
    size_t len = a->len - offsetof(struct sockaddr_un, sun_path);
    bool is_abstract = len > 0 && a->un.sun_path[0] == 0;
    if (!is_abstract)
        len = strnlen(a->un.sun_path, len);
    memcpy(buf, a->un.sun_path, len);
    buf[len] = 0;
    if (is_abstract)
        buf[0] = '@';
}

void mr_addr_text(const struct mr_addr *a, char buf[MR_ADDR_TEXT_CAP])
{
    _Static_assert(MR_ADDR_TEXT_CAP > sizeof a->un.sun_path, "a path must fit");
    if (a->sa.sa_family == AF_UNIX) {
        unix_text(a, buf);
        return;
    }
    char ip[INET6_ADDRSTRLEN] = "?";
    char scope[12] = "";
    char port[8] = "";
    bool is_v6 = a->sa.sa_family == AF_INET6;
    const void *raw = is_v6 ? (const void *)&a->in6.sin6_addr : (const void *)&a->in.sin_addr;
    inet_ntop(a->sa.sa_family, raw, ip, sizeof ip);
    if (is_v6 && a->in6.sin6_scope_id)
        snprintf(scope, sizeof scope, "%%%u", (unsigned)a->in6.sin6_scope_id);
    if (mr_addr_port(a))
        snprintf(port, sizeof port, ":%u", mr_addr_port(a));
    bool needs_brackets = is_v6 && port[0];
    snprintf(buf, MR_ADDR_TEXT_CAP, "%s%s%s%s%s", needs_brackets ? "[" : "", ip, scope,
             needs_brackets ? "]" : "", port);
}
