/*
 * Any bytes as a certificate: no memory error, every part inside the bytes and where it belongs, the
 * list of names readable to its end, texts printable and no longer than their room.
 */
#include "base/span.h"
#include "tls/cert.h"
#include "tls/constraints.h"
#include "tls/name.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(x)                                                                                   \
    do {                                                                                           \
        if (!(x))                                                                                  \
            abort();                                                                               \
    } while (0)

static void check_inside(moor_span part, moor_span whole)
{
    const unsigned char *base = part.base;
    const unsigned char *start = whole.base;
    CHECK(base >= start && base + part.len <= start + whole.len);
}

static void check_optional(moor_span part, moor_span whole)
{
    if (part.base)
        check_inside(part, whole);
    else
        CHECK(part.len == 0);
}

static void check_names(const struct mr_cert *c)
{
    moor_span rest = c->san;
    struct mr_cert_san san;
    bool has_dns = false;
    bool has_ip = false;
    while (mr_cert_next_san(&rest, &san)) {
        check_inside(san.value, c->san);
        has_dns = has_dns || san.kind == MR_CERT_SAN_DNS;
        has_ip = has_ip || san.kind == MR_CERT_SAN_IP;
        if (san.kind == MR_CERT_SAN_IP)
            CHECK(san.value.len == 4 || san.value.len == 16);
    }
    CHECK(rest.len == 0);

    static const char *const hosts[] = {"localhost", "a.example.org", "a.b.", "xn--a.b.c"};
    for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++)
        CHECK(!mr_tls_name_matches(c, mr_span_cstr(hosts[i]), false) || has_dns);
    static const char *const addresses[] = {"127.0.0.1", "::1", "2001:db8::5"};
    for (size_t i = 0; i < sizeof addresses / sizeof *addresses; i++) {
        CHECK(!mr_tls_name_matches(c, mr_span_cstr(addresses[i]), false));
        CHECK(!mr_tls_name_matches(c, mr_span_cstr(addresses[i]), true) || has_ip);
    }
    CHECK(!mr_tls_name_matches(c, MR_SPAN("*.example.org"), false));
    CHECK(!mr_tls_name_matches(c, MR_SPAN("::1%lo"), true));
}

static void check_constraints(const struct mr_cert *c)
{
    check_optional(c->name_constraints, c->tbs);
    if (!c->name_constraints.base)
        return;
    CHECK(mr_constraints_are_valid(c->name_constraints));
    static const char *const hosts[] = {"", "a", "a.example.org", "A.B."};
    for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++)
        /* An exclusion of names can only take away from what is allowed for an address. */
        CHECK(!mr_constraints_allow(c->name_constraints, c, mr_span_cstr(hosts[i]), false) ||
              mr_constraints_allow(c->name_constraints, c, mr_span_cstr(hosts[i]), true));
}

static void check_text(const char *text, const char *buf, size_t cap)
{
    CHECK(text == buf);
    CHECK(strlen(text) < cap);
    for (; *text; text++)
        CHECK(*text >= ' ' && *text < 0x7f);
}

static void check_good(const struct mr_cert *c)
{
    check_inside(c->tbs, c->der);
    check_inside(c->issuer, c->tbs);
    check_inside(c->subject, c->tbs);
    check_inside(c->spki, c->tbs);
    check_optional(c->san, c->tbs);
    check_optional(c->subject_key_id, c->tbs);
    check_optional(c->authority_key_id, c->tbs);
    CHECK(*(const unsigned char *)c->spki.base == 0x30);
    CHECK(c->key <= MR_CERT_KEY_OTHER);
    CHECK(c->key != MR_CERT_KEY_RSA || c->key_bits > 0);
    CHECK(!(c->is_weakly_signed && c->has_unknown_signature));
    CHECK(c->is_ca || c->path_len_max == -1);
    CHECK(c->not_before_s >= -62167219200 && c->not_before_s <= 253402300799);
    CHECK(c->not_after_s >= -62167219200 && c->not_after_s <= 253402300799);
    check_names(c);
    check_constraints(c);
    for (size_t cap = 1; cap <= 64; cap += 21) {
        char *buf = malloc(cap);
        CHECK(buf != NULL);
        check_text(mr_cert_subject_text(c, buf, cap), buf, cap);
        check_text(mr_cert_issuer_text(c, buf, cap), buf, cap);
        free(buf);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *what = NULL;
    struct mr_cert c;
    const moor_err e = mr_cert_parse((moor_span){data, size}, &c, &what);
    CHECK(e == MOOR_OK || e == MOOR_EPROTO);
    CHECK((e == MOOR_OK) == (what == NULL));
    if (e != MOOR_OK)
        return 0;
    CHECK(c.der.base == data && c.der.len == size);
    check_good(&c);
    struct mr_cert cut;
    CHECK(mr_cert_parse((moor_span){data, size - 1}, &cut, NULL) == MOOR_EPROTO);
    return 0;
}
