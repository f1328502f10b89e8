/*
 * Reads roots, certificates, keys and pins from files, directories and memory.
 * The opener's thread; blocks on the disk. Must not keep what the caller lent.
 */
#include "tls/material.h"

#include "base/assert.h"
#include "base/span.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Where distributions keep their bundle of roots. */
static const char *const bundles[] = {
    "/etc/ssl/certs/ca-certificates.crt",                /* Debian, Arch */
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", /* Fedora, RHEL */
    "/etc/ssl/ca-bundle.pem",                            /* SUSE */
    "/etc/ssl/cert.pem",                                 /* Alpine */
};

#define FAIL(fault, ...) (snprintf(fault, MR_TLS_FAULT_MAX, __VA_ARGS__), MOOR_EINVAL)

static void drop_text(struct mr_heap *h, struct mr_tls_text *t)
{
    if (t->base) {
        explicit_bzero(t->base, t->len);
        mr_heap_free(h, t->base, t->len + 1);
    }
    *t = (struct mr_tls_text){0};
}

/* Room for `more` bytes behind what is there. */
static char *extend(struct mr_heap *h, struct mr_tls_text *t, size_t more)
{
    char *base = mr_heap_alloc(h, t->len + more + 1);
    if (!base)
        return NULL;
    struct mr_tls_text longer = {base, t->len + more};
    if (t->len)
        memcpy(base, t->base, t->len);
    base[longer.len] = '\0';
    char *at = base + t->len;
    drop_text(h, t);
    *t = longer;
    return at;
}

static moor_err read_all(int fd, char *at, size_t len)
{
    while (len > 0) {
        const ssize_t n = read(fd, at, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return MOOR_EINVAL;
        at += n;
        len -= (size_t)n;
    }
    return MOOR_OK;
}

/* Appends the file and a line end. */
static moor_err add_file(struct mr_heap *h, const char *path, struct mr_tls_text *t, char *fault)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd < 0)
        return FAIL(fault, "%s: %s", path, strerrordesc_np(errno));
    moor_err e = MOOR_OK;
    if (fstat(fd, &st) || !S_ISREG(st.st_mode))
        e = FAIL(fault, "%s: not a file", path);
    else if ((size_t)st.st_size > MR_TLS_FILE_MAX - t->len)
        e = FAIL(fault, "%s: larger than %zu MiB", path, MR_TLS_FILE_MAX >> 20);
    char *at = e ? NULL : extend(h, t, (size_t)st.st_size + 1);
    if (!e && !at)
        e = MOOR_ENOMEM;
    if (!e && read_all(fd, at, (size_t)st.st_size))
        e = FAIL(fault, "%s: it changed while it was read, or cannot be read", path);
    else if (!e)
        at[st.st_size] = '\n';
    close(fd);
    return e;
}

static bool is_pem_name(const char *name)
{
    const size_t len = strlen(name);
    return len > 4 && (!strcmp(name + len - 4, ".pem") || !strcmp(name + len - 4, ".crt") ||
                       !strcmp(name + len - 4, ".cer"));
}

/* Its PEM files; the links by hash that such directories also hold would give each twice. */
static moor_err add_directory(struct mr_heap *h, const char *path, struct mr_tls_text *t,
                              char *fault)
{
    DIR *d = opendir(path);
    if (!d)
        return FAIL(fault, "%s: %s", path, strerrordesc_np(errno));
    moor_err e = MOOR_OK;
    for (struct dirent *entry; !e && (entry = readdir(d));) {
        char file[4096 + 256 + 2];
        if (!is_pem_name(entry->d_name))
            continue;
        snprintf(file, sizeof file, "%s/%s", path, entry->d_name);
        e = add_file(h, file, t, fault);
    }
    closedir(d);
    return e ? e : t->len ? MOOR_OK : FAIL(fault, "%s: no .pem, .crt or .cer file there", path);
}

static moor_err copy_memory(struct mr_heap *h, moor_span pem, struct mr_tls_text *t)
{
    char *at = extend(h, t, pem.len);
    MR_FAIL_IF(!at, MOOR_ENOMEM);
    memcpy(at, pem.base, pem.len);
    return MOOR_OK;
}

static moor_err read_system_roots(struct mr_heap *h, struct mr_tls_material *m, char *fault)
{
    for (size_t i = 0; i < sizeof bundles / sizeof *bundles; i++) {
        if (access(bundles[i], R_OK))
            continue;
        m->roots_from = bundles[i];
        return add_file(h, bundles[i], &m->roots, fault);
    }
    (void)FAIL(fault, "this system has no bundle of trusted roots (Debian: install "
                      "ca-certificates); or set tls_ca");
    return MOOR_ENOSYS;
}

static bool is_directory(const char *path)
{
    struct stat st;
    return !stat(path, &st) && S_ISDIR(st.st_mode);
}

static moor_err read_roots(const moor_pool_options *o, struct mr_tls_material *m, char *fault)
{
    m->roots_from = o->tls_ca ? o->tls_ca : "tls_ca_pem";
    if (o->tls_insecure)
        return MOOR_OK;
    if (o->tls_ca_pem.len)
        return copy_memory(m->heap, o->tls_ca_pem, &m->roots);
    if (!o->tls_ca)
        return read_system_roots(m->heap, m, fault);
    return is_directory(o->tls_ca) ? add_directory(m->heap, o->tls_ca, &m->roots, fault)
                                   : add_file(m->heap, o->tls_ca, &m->roots, fault);
}

static moor_err read_pair(const moor_pool_options *o, struct mr_tls_material *m, char *fault)
{
    const bool has_cert = o->tls_cert_pem.len || o->tls_cert;
    const bool has_key = o->tls_key_pem.len || o->tls_key;
    m->cert_from = o->tls_cert_pem.len ? "tls_cert_pem" : o->tls_cert;
    m->key_from = o->tls_key_pem.len ? "tls_key_pem" : o->tls_key ? o->tls_key : m->cert_from;
    if (!has_cert)
        return has_key ? FAIL(fault, "there is a key (tls_key) without a certificate (tls_cert)")
                       : MOOR_OK;
    MR_TRY(o->tls_cert_pem.len ? copy_memory(m->heap, o->tls_cert_pem, &m->cert)
                               : add_file(m->heap, o->tls_cert, &m->cert, fault));
    if (!has_key)
        return copy_memory(m->heap, (moor_span){m->cert.base, m->cert.len}, &m->key);
    return o->tls_key_pem.len ? copy_memory(m->heap, o->tls_key_pem, &m->key)
                              : add_file(m->heap, o->tls_key, &m->key, fault);
}

static moor_err read_pin(struct mr_tls_material *m, moor_span pin, char *fault)
{
    static const char prefix[] = "sha256/";
    const size_t skip = sizeof prefix - 1;
    uint8_t bytes[64];
    size_t len = sizeof bytes;
    if (pin.len <= skip || memcmp(pin.base, prefix, skip) || pin.len - skip != 44 ||
        !mr_tls_base64(mr_span_skip(pin, skip), bytes, &len) || len != MR_TLS_HASH_SIZE)
        return FAIL(fault, "pin \"%.*s\": expected sha256/ and 44 characters of base64",
                    (int)(pin.len < 80 ? pin.len : 80), (const char *)pin.base);
    if (m->pin_count == MR_TLS_PINS_MAX)
        return FAIL(fault, "more than %d pins", MR_TLS_PINS_MAX);
    memcpy(m->pins[m->pin_count++], bytes, MR_TLS_HASH_SIZE);
    return MOOR_OK;
}

static moor_err read_pins(const moor_pool_options *o, struct mr_tls_material *m, char *fault)
{
    for (const char *at = o->tls_pins ? o->tls_pins : ""; *at;) {
        const size_t len = strcspn(at, ", ");
        if (len)
            MR_TRY(read_pin(m, (moor_span){at, len}, fault));
        at += len + (at[len] != '\0');
    }
    if (o->tls_pins && o->tls_pins[0] && !m->pin_count)
        return FAIL(fault, "tls_pins names none");
    return m->pin_count && o->tls_insecure
               ? FAIL(fault, "pins (tls_pins) mean nothing without verification (tls_insecure)")
               : MOOR_OK;
}

static moor_err read_version(const moor_pool_options *o, struct mr_tls_material *m, char *fault)
{
    const char *text = o->tls_version_min ? o->tls_version_min : "1.2";
    m->version_min = !strcmp(text, "1.2") ? 12 : !strcmp(text, "1.3") ? 13 : 0;
    return m->version_min ? MOOR_OK
                          : FAIL(fault, "tls_version_min \"%.16s\": expected 1.2 or 1.3", text);
}

moor_err mr_tls_material_read(struct mr_heap *heap, const moor_pool_options *o,
                              struct mr_tls_material *out, char fault[MR_TLS_FAULT_MAX])
{
    struct mr_tls_material m = {
        .heap = heap, .pins_chain = o->tls_pin_chain, .is_insecure = o->tls_insecure};
    fault[0] = '\0';
    moor_err e = read_version(o, &m, fault);
    if (!e)
        e = read_pins(o, &m, fault);
    if (!e)
        e = read_roots(o, &m, fault);
    if (!e)
        e = read_pair(o, &m, fault);
    if (e)
        mr_tls_material_drop(&m);
    else
        *out = m;
    return e;
}

void mr_tls_material_drop(struct mr_tls_material *m)
{
    drop_text(m->heap, &m->roots);
    drop_text(m->heap, &m->cert);
    drop_text(m->heap, &m->key);
}

void mr_tls_material_fingerprint(const struct mr_tls_material *m, uint8_t out[MR_TLS_HASH_SIZE])
{
    /* Lengths first: what ends one part cannot be taken for the beginning of the next. */
    const uint64_t shape[] = {m->roots.len,
                              m->cert.len,
                              m->key.len,
                              m->pin_count,
                              m->pins_chain,
                              m->is_insecure,
                              (uint64_t)m->version_min};
    const moor_span parts[] = {
        {shape, sizeof shape},
        {m->roots.base, m->roots.len},
        {m->cert.base, m->cert.len},
        {m->key.base, m->key.len},
        {m->pins, m->pin_count * sizeof *m->pins},
    };
    mr_tls_hash(parts, sizeof parts / sizeof *parts, out);
}
