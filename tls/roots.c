/*
 * Reads roots once, when a context is made. The opener's thread; looked up on any.
 * Decides nothing about trust: the TLS library does, from the same text.
 */
#include "tls/roots.h"

#include "tls/wolf.h"

#include <string.h>

bool mr_tls_pem_next(const char **at, uint8_t der[MR_TLS_ROOT_DER_MAX], struct mr_cert *out)
{
    static const char first[] = "-----BEGIN CERTIFICATE-----";
    static const char last[] = "-----END CERTIFICATE-----";
    for (const char *begin; (begin = strstr(*at, first));) {
        const char *end = strstr(begin, last);
        if (!end)
            return false;
        *at = end + sizeof last - 1;
        const int len = wc_CertPemToDer((const unsigned char *)begin, (int)(*at - begin), der,
                                        MR_TLS_ROOT_DER_MAX, CERT_TYPE);
        if (len > 0 && !mr_cert_parse((moor_span){der, (size_t)len}, out, NULL))
            return true;
    }
    return false;
}

static bool grow(struct mr_heap *h, struct mr_tls_roots *r)
{
    const uint32_t cap = r->cap ? 2 * r->cap : 16;
    struct mr_tls_root *all = mr_heap_alloc(h, cap * sizeof *all);
    if (!all)
        return false;
    if (r->count)
        memcpy(all, r->all, r->count * sizeof *all);
    mr_heap_free(h, r->all, r->cap * sizeof *all);
    r->all = all;
    r->cap = cap;
    return true;
}

static struct mr_tls_root *find(const struct mr_tls_roots *r, const uint8_t *subject)
{
    for (uint32_t i = 0; i < r->count; i++)
        if (!memcmp(r->all[i].subject, subject, MR_TLS_HASH_SIZE))
            return &r->all[i];
    return NULL;
}

static void widen(struct mr_tls_root *r, const struct mr_tls_root *by)
{
    if (r->path_len_max >= 0 && (by->path_len_max < 0 || by->path_len_max > r->path_len_max))
        r->path_len_max = by->path_len_max;
    if (by->not_after_s > r->not_after_s)
        r->not_after_s = by->not_after_s;
}

moor_err mr_tls_roots_read(struct mr_heap *h, const char *pem, struct mr_tls_roots *out)
{
    struct mr_tls_roots r = {0};
    uint8_t der[MR_TLS_ROOT_DER_MAX];
    struct mr_cert c;
    while (mr_tls_pem_next(&pem, der, &c)) {
        struct mr_tls_root root = {.path_len_max = c.path_len_max, .not_after_s = c.not_after_s};
        mr_tls_hash(&c.subject, 1, root.subject);
        struct mr_tls_root *same = find(&r, root.subject);
        if (same) {
            widen(same, &root);
            continue;
        }
        if (r.count == r.cap && !grow(h, &r)) {
            mr_tls_roots_drop(h, &r);
            return MOOR_ENOMEM;
        }
        r.all[r.count++] = root;
    }
    *out = r;
    return MOOR_OK;
}

void mr_tls_roots_drop(struct mr_heap *h, struct mr_tls_roots *r)
{
    mr_heap_free(h, r->all, r->cap * sizeof *r->all);
    *r = (struct mr_tls_roots){0};
}

const struct mr_tls_root *mr_tls_roots_find(const struct mr_tls_roots *r, moor_span name)
{
    uint8_t subject[MR_TLS_HASH_SIZE];
    mr_tls_hash(&name, 1, subject);
    return find(r, subject);
}
