/* Certificates: what is read of real ones, what is refused, and that damage is never followed. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/support/certs_der.h"
#include "tests/support/der_text.h"
#include "tls/cert.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))

#define JAN_2024 1704067200
#define JAN_2034 2019686400

static const struct fixture {
    const char *name;
    const unsigned char *bytes;
    size_t len;
    enum mr_cert_key key;
    uint32_t bits;
    const char *names; /* NULL = no subjectAltName */
    const char *subject;
    bool is_weak, must_staple;
} fixtures[] = {
#define CERT(name) #name, der_##name, sizeof der_##name
#define L          "DNS:localhost "
#define CN         "CN=localhost"
    {CERT(rsa), MR_CERT_KEY_RSA, 2048, L "DNS:*.example.org ", "O=Acme, CN=localhost", 0, 0},
    {CERT(rsa1024), MR_CERT_KEY_RSA, 1024, L, CN, 0, 0},
    {CERT(rsa_sha1), MR_CERT_KEY_RSA, 1024, L, CN, 1, 0},
    {CERT(rsa_md5), MR_CERT_KEY_RSA, 1024, L, CN, 1, 0},
    {CERT(rsa_signed_by_pss), MR_CERT_KEY_RSA, 1024, L, CN, 0, 0},
    {CERT(pss), MR_CERT_KEY_RSA_PSS, 2048, L, CN, 0, 0},
    {CERT(pss_sha1), MR_CERT_KEY_RSA, 1024, L, CN, 1, 0},
    {CERT(p256), MR_CERT_KEY_EC, 256, L, CN, 0, 0},
    {CERT(p256_sha1), MR_CERT_KEY_EC, 256, L, CN, 1, 0},
    {CERT(p384), MR_CERT_KEY_EC, 384, L, CN, 0, 0},
    {CERT(p521), MR_CERT_KEY_EC, 521, L, CN, 0, 0},
    {CERT(secp256k1), MR_CERT_KEY_EC, 0, L, CN, 0, 0},
    {CERT(ed25519), MR_CERT_KEY_ED25519, 0, L, CN, 0, 0},
    {CERT(ed448), MR_CERT_KEY_ED448, 0, L, CN, 0, 0},
    {CERT(v1), MR_CERT_KEY_EC, 256, NULL, CN, 0, 0},
    {CERT(no_san), MR_CERT_KEY_EC, 256, NULL, CN, 0, 0},
    {CERT(must_staple), MR_CERT_KEY_EC, 256, L, CN, 0, 1},
    {CERT(ips), MR_CERT_KEY_EC, 256,
     "IP:7f000001 IP:00000000000000000000000000000001 IP:20010db8000000000000000000000005 "
     "DNS:192.0.2.1 ",
     "CN=127.0.0.1", 0, 0},
    {CERT(all_names), MR_CERT_KEY_EC, 256, "other other other other other " L, CN, 0, 0},
    {CERT(1949_to_end), MR_CERT_KEY_EC, 256, L, CN, 0, 0},
    {CERT(2049_to_2050), MR_CERT_KEY_EC, 256, L, CN, 0, 0},
    {CERT(ca), MR_CERT_KEY_EC, 256, NULL, "C=DE, O=Acme\\, Inc., CN=Acm?? Root", 0, 0},
#undef L
#undef CN
};

static void append(char *buf, size_t cap, const char *text)
{
    const size_t len = strlen(buf);
    assert_true(len + strlen(text) < cap);
    memcpy(buf + len, text, strlen(text) + 1);
}

static void append_span(char *buf, size_t cap, moor_span bytes, const char *format)
{
    for (size_t i = 0; i < bytes.len; i++) {
        char text[4];
        const unsigned c = ((const unsigned char *)bytes.base)[i];
        snprintf(text, sizeof text, *format == 'c' ? "%c" : "%02x", c);
        append(buf, cap, text);
    }
}

static void write_names(const struct mr_cert *c, char *buf, size_t cap)
{
    moor_span rest = c->san;
    struct mr_cert_san san;
    *buf = 0;
    while (mr_cert_next_san(&rest, &san)) {
        append(buf, cap, san.kind == MR_CERT_SAN_DNS ? "DNS:" : "");
        append(buf, cap, san.kind == MR_CERT_SAN_IP ? "IP:" : "");
        if (san.kind == MR_CERT_SAN_OTHER)
            append(buf, cap, "other");
        else
            append_span(buf, cap, san.value, san.kind == MR_CERT_SAN_DNS ? "c" : "x");
        append(buf, cap, " ");
    }
    assert_int_equal(rest.len, 0);
}

static void assert_inside(moor_span part, const unsigned char *bytes, size_t len)
{
    const unsigned char *base = part.base;
    if (base)
        assert_true(base >= bytes && base + part.len <= bytes + len);
    else
        assert_int_equal(part.len, 0);
}

static void test_fixtures(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(fixtures); i++) {
        const struct fixture *f = &fixtures[i];
        struct mr_cert c;
        const char *what = NULL;
        char text[256];
        unsigned char *bytes = der_text_copy(f->bytes, f->len);
        if (mr_cert_parse((moor_span){bytes, f->len}, &c, &what) != MOOR_OK)
            fail_msg("%s: %s", f->name, what);
        if (c.key != f->key || c.key_bits != f->bits || c.is_weakly_signed != f->is_weak ||
            c.has_unknown_signature || c.has_must_staple != f->must_staple)
            fail_msg("%s: key %d of %u bits, weak %d, unknown %d, staple %d", f->name, c.key,
                     c.key_bits, c.is_weakly_signed, c.has_unknown_signature, c.has_must_staple);
        assert_string_equal(mr_cert_subject_text(&c, text, sizeof text), f->subject);
        assert_string_equal(mr_cert_issuer_text(&c, text, sizeof text), f->subject);
        assert_int_equal(c.san.base != NULL, f->names != NULL);
        write_names(&c, text, sizeof text);
        assert_string_equal(text, f->names ? f->names : "");
        assert_true(mr_span_is_equal(c.subject, c.issuer));
        assert_ptr_equal(c.der.base, bytes);
        assert_int_equal(c.der.len, f->len);
        assert_inside(c.tbs, bytes, f->len);
        assert_inside(c.spki, c.tbs.base, c.tbs.len);
        assert_inside(c.subject, c.tbs.base, c.tbs.len);
        assert_inside(c.san, c.tbs.base, c.tbs.len);
        if (strncmp(f->name, "1949", 4) == 0) {
            assert_int_equal(c.not_before_s, -631152001);
            assert_int_equal(c.not_after_s, 253402300799);
        } else if (strncmp(f->name, "2049", 4) == 0) {
            assert_int_equal(c.not_before_s, 2524607999);
            assert_int_equal(c.not_after_s, 2524608000);
        } else {
            assert_int_equal(c.not_before_s, JAN_2024);
            assert_int_equal(c.not_after_s, JAN_2034);
        }
        free(bytes);
    }
}

/* The pin of a key is a hash of this, so not one byte more or less. */
static void test_spki(void **state)
{
    (void)state;
    static const struct {
        moor_span der;
        size_t len;
    } cases[] = {
        {{der_rsa, sizeof der_rsa}, 294},
        {{der_p256, sizeof der_p256}, 91},
        {{der_ed25519, sizeof der_ed25519}, 44},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct mr_cert c;
        assert_int_equal(mr_cert_parse(cases[i].der, &c, NULL), MOOR_OK);
        assert_int_equal(c.spki.len, cases[i].len);
        assert_int_equal(*(const unsigned char *)c.spki.base, 0x30);
    }
}

static void test_ca(void **state)
{
    (void)state;
    struct mr_cert c;
    assert_int_equal(mr_cert_parse((moor_span){der_ca, sizeof der_ca}, &c, NULL), MOOR_OK);
    assert_true(c.is_ca);
    assert_int_equal(c.path_len_max, 3);
    assert_int_equal(c.subject_key_id.len, 20);
    assert_true(mr_span_is_equal(c.subject_key_id, c.authority_key_id));
    assert_int_equal(mr_cert_parse((moor_span){der_v1, sizeof der_v1}, &c, NULL), MOOR_OK);
    assert_false(c.is_ca);
    assert_int_equal(c.path_len_max, -1);
    assert_null(c.subject_key_id.base);
    assert_null(c.authority_key_id.base);
}

/* A certificate in parts, as tests/support/der_text.h writes them; NULL = an ordinary one. */
struct parts {
    const char *what; /* a word of the refusal; NULL = good */
    const char *version, *serial, *algorithm, *issuer, *validity, *subject, *spki, *ids, *list,
        *after_list, *outer_algorithm, *signature, *after_signature, *after;
};

#define ECDSA_SHA256 "30{06{2a8648ce3d040302}}"
#define NAME         "30{31{30{06{550403}0c{'a'}}}}"
#define SAN          "30{06{551d11} 04{30{82{'a'}}}}"

static const char *part(const char *given, const char *ordinary)
{
    return given ? given : ordinary;
}

static void assemble(const struct parts *p, struct der_text *d)
{
    d->len = d->depth = 0;
    der_text_add(d, "30{ 30{");
    der_text_add(d, part(p->version, "a0{02{02}}"));
    der_text_add(d, part(p->serial, "02{01}"));
    der_text_add(d, part(p->algorithm, ECDSA_SHA256));
    der_text_add(d, part(p->issuer, NAME));
    der_text_add(d, part(p->validity, "30{17{'240101000000Z'}17{'340101000000Z'}}"));
    der_text_add(d, part(p->subject, NAME));
    der_text_add(d, part(p->spki, "30{30{06{2a8648ce3d0201}06{2a8648ce3d030107}}03{00 04 01 02}}"));
    der_text_add(d, part(p->ids, ""));
    if (p->list && *p->list) {
        der_text_add(d, "a3{30{");
        der_text_add(d, p->list);
        der_text_add(d, "}}");
    }
    der_text_add(d, part(p->after_list, ""));
    der_text_add(d, "}");
    der_text_add(d, part(p->outer_algorithm, part(p->algorithm, ECDSA_SHA256)));
    der_text_add(d, part(p->signature, "03{00 3000}"));
    der_text_add(d, part(p->after_signature, ""));
    der_text_add(d, "}");
    der_text_add(d, part(p->after, ""));
    assert_int_equal(d->depth, 0);
}

static const struct parts cases[] = {
    {NULL, .version = NULL},
    {NULL, .version = ""},
    {NULL, .version = "a0{02{01}}", .ids = "81{00 01}82{07 80}"},
    {NULL, .ids = "82{00}"},
    {NULL, .serial = "02{00}"},
    {NULL, .serial = "02{ff}"},
    {NULL, .serial = "02{7f01020304050607080910111213141516171819}"},
    {NULL, .subject = "30{}"},
    {NULL, .issuer = "30{}"},
    {NULL, .list = SAN "30{06{2a03}0101ff 04{}} 30{06{2a04}04{ffff}}"},
    {NULL, .list = "30{06{551d13}04{30{0101ff 020100}}}"},
    {NULL, .list = "30{06{551d13}04{30{010100}}}"},
    {NULL, .list = "30{06{551d13}04{30{020100}}}"},
    {NULL, .list = "30{06{551d23}04{30{}}}"},
    {NULL, .list = "30{06{551d23}04{30{80{01}a1{a4{3000}}82{01}}}}"},
    {NULL, .list = "30{06{551d23}04{30{a1{a4{3000}}82{01}}}}"},
    {NULL, .list = "30{06{551d23}04{30{82{01}}}}"},
    {NULL, .list = "30{06{551d0e}04{04{}}}"},
    {NULL, .list = "30{06{2b06010505070118}04{30{}}}"},
    {NULL, .validity = "30{18{'20240101000000Z'}18{'99991231235959Z'}}"},
    {NULL, .validity = "30{17{'340101000000Z'}17{'240101000000Z'}}"},
    {"version", .version = "a0{02{00}}"},
    {"version", .version = "a0{02{03}}"},
    {"version", .version = "a0{02{0002}}"},
    {"version", .version = "a0{02{02}0500}"},
    {"version", .version = "a0{}"},
    {"version", .version = "a0{04{02}}"},
    {"serial", .version = "80{02}"},
    {"serial", .version = "a0{02{02}}a0{02{02}}"},
    {"version 3", .version = "", .list = SAN},
    {"version 3", .version = "a0{02{01}}", .list = SAN},
    {"version 2", .version = "", .ids = "81{00 01}"},
    {"unique identifier", .ids = "81{}"},
    {"unique identifier", .ids = "81{08 01}"},
    {"last field", .ids = "82{00}81{00}"},
    {"last field", .ids = "81{00}81{00}"},
    {"serial", .serial = ""},
    {"serial", .serial = "02{}"},
    {"serial", .serial = "02{0001}"},
    {"serial", .serial = "02{7f0102030405060708091011121314151617181920}"},
    {"algorithm", .algorithm = "30{}"},
    {"algorithm", .algorithm = "30{06{2a03}0500 0500}"},
    {"differ", .outer_algorithm = "30{06{2a8648ce3d040303}}"},
    {"differ", .outer_algorithm = "30{06{2a8648ce3d040302}0500}"},
    {"algorithm", .outer_algorithm = ""},
    {"issuer or subject", .issuer = "31{}"},
    {"issuer or subject", .issuer = "30{31{}}"},
    {"issuer or subject", .subject = "30{31{30{06{550403}0c{'a'}0500}}}"},
    {"validity", .validity = "30{17{'240101000000Z'}}"},
    {"validity", .validity = "30{17{'240101000000Z'}17{'340101000000Z'}0500}"},
    {"date", .validity = "30{17{'240101000000Z'}17{'3401010000Z'}}"},
    {"date", .validity = "30{17{'240230000000Z'}17{'340101000000Z'}}"},
    {"date", .validity = "30{16{'240101000000Z'}17{'340101000000Z'}}"},
    {"date", .validity = "30{17{'240101000000Z'}18{'20340101000000.0Z'}}"},
    {"date", .validity = "30{17{'240101000000+0000'}17{'340101000000Z'}}"},
    {"key", .spki = "30{}"},
    {"key", .spki = ""},
    {"last field", .after_list = "0500"},
    {"last field", .list = SAN, .after_list = "0500"},
    {"last field", .list = SAN, .after_list = "a3{30{" SAN "}}"},
    {"last field", .after_list = "00"},
    {"signature is not", .signature = ""},
    {"signature is not", .signature = "03{}"},
    {"signature is not", .signature = "03{01 02}"},
    {"signature is not", .signature = "23{0302 0001}"},
    {"after the signature", .after_signature = "0500"},
    {"after the certificate", .after = "00"},
    {"extensions", .after_list = "a3{}"},
    {"extensions", .after_list = "a3{30{}}"},
    {"extensions", .after_list = "a3{30{" SAN "}30{}}"},
    {"extensions", .after_list = "a3{31{" SAN "}}"},
    {"extension", .list = "30{}"},
    {"extension", .list = "0500"},
    {"extension", .list = "30{06{}04{}}"},
    {"extension", .list = "30{06{2a80}04{}}"},
    {"critical FALSE", .list = "30{06{2a03}010100 04{}}"},
    {"critical flag", .list = "30{06{2a03}010101 04{}}"},
    {"critical flag", .list = "30{06{2a03}0100 04{}}"},
    {"value", .list = "30{06{2a03}}"},
    {"value", .list = "30{06{2a03}04{}0500}"},
    {"value", .list = "30{06{2a03}24{0400}}"},
    {"twice", .list = SAN SAN},
    {"twice", .list = "30{06{2a03}04{}}" SAN "30{06{2a03}0101ff 04{00}}"},
    {"subjectAltName", .list = "30{06{551d11}04{}}"},
    {"subjectAltName", .list = "30{06{551d11}04{30{}}}"},
    {"subjectAltName", .list = "30{06{551d11}04{30{82{'a'}}00}}"},
    {"subjectAltName", .list = "30{06{551d11}04{31{82{'a'}}}}"},
    {"name in subjectAltName", .list = "30{06{551d11}04{30{82{'a'}00}}}"},
    {"name in subjectAltName", .list = "30{06{551d11}04{30{a2{'a'}}}}"},
    {"name in subjectAltName", .list = "30{06{551d11}04{30{82{'a'}89{'a'}}}}"},
    {"name in subjectAltName", .list = "30{06{551d11}04{30{16{'a'}}}}"},
    {"name in subjectAltName", .list = "30{06{551d11}04{30{8202'a'}}}"},
    {"IP address", .list = "30{06{551d11}04{30{87{}}}}"},
    {"IP address", .list = "30{06{551d11}04{30{87{7f0000}}}}"},
    {"IP address", .list = "30{06{551d11}04{30{87{7f000001ffffffff}}}}"},
    {"basicConstraints", .list = "30{06{551d13}04{}}"},
    {"basicConstraints", .list = "30{06{551d13}04{30{}00}}"},
    {"basicConstraints", .list = "30{06{551d13}04{30{0101ff 020100 0500}}}"},
    {"basicConstraints", .list = "30{06{551d13}04{30{020100 0101ff}}}"},
    {"cA", .list = "30{06{551d13}04{30{010101}}}"},
    {"pathLen", .list = "30{06{551d13}04{30{0101ff 0201ff}}}"},
    {"pathLen", .list = "30{06{551d13}04{30{0101ff 02050100000000}}}"},
    {"subjectKey", .list = "30{06{551d0e}04{}}"},
    {"subjectKey", .list = "30{06{551d0e}04{04{}0500}}"},
    {"authorityKey", .list = "30{06{551d23}04{04{}}}"},
    {"authorityKey", .list = "30{06{551d23}04{30{83{}}}}"},
    {"authorityKey", .list = "30{06{551d23}04{30{82{01}80{}}}}"},
    {"authorityKey", .list = "30{06{551d23}04{30{8002 01}}}"},
    {"TLS feature", .list = "30{06{2b06010505070118}04{}}"},
    {"TLS feature", .list = "30{06{2b06010505070118}04{30{04{05}}}}"},
    {"TLS feature", .list = "30{06{2b06010505070118}04{30{02{0005}}}}"},
    {"TLS feature", .list = "30{06{2b06010505070118}04{30{020105}0500}}"},
};

static moor_err parse_copy(const void *bytes, size_t len, const char **what)
{
    struct mr_cert c;
    unsigned char *copy = der_text_copy(bytes, len);
    const moor_err e = mr_cert_parse((moor_span){copy, len}, &c, what);
    if (e == MOOR_OK) {
        char text[512];
        moor_span rest = c.san;
        struct mr_cert_san san;
        while (mr_cert_next_san(&rest, &san))
            assert_inside(san.value, c.san.base, c.san.len);
        assert_int_equal(rest.len, 0);
        mr_cert_subject_text(&c, text, sizeof text);
        mr_cert_issuer_text(&c, text, sizeof text);
        assert_inside(c.subject_key_id, copy, len);
        assert_inside(c.authority_key_id, copy, len);
    }
    free(copy);
    return e;
}

static void test_parts(void **state)
{
    (void)state;
    static struct der_text d;
    for (size_t i = 0; i < COUNT(cases); i++) {
        const char *what = NULL;
        assemble(&cases[i], &d);
        const moor_err e = parse_copy(d.bytes, d.len, &what);
        if ((what != NULL) != (cases[i].what != NULL) || (what && !strstr(what, cases[i].what)))
            fail_msg("case %zu: \"%s\", not \"%s\"", i, what ? what : "good",
                     cases[i].what ? cases[i].what : "good");
        assert_int_equal(e, what ? MOOR_EPROTO : MOOR_OK);
    }
}

static void test_flags(void **state)
{
    (void)state;
    static struct der_text d;
    struct mr_cert c = {.key_bits = 4711};
    assemble(&(struct parts){NULL, .algorithm = "30{06{2a03}}"}, &d);
    assert_int_equal(mr_cert_parse((moor_span){d.bytes, d.len}, &c, NULL), MOOR_OK);
    assert_true(c.has_unknown_signature);
    assert_false(c.is_weakly_signed);
    assemble(&(struct parts){NULL, .list = "30{06{2b06010505070118}04{30{020111 020105}}}"
                                           "30{06{551d13}04{30{020100}}}"},
             &d);
    assert_int_equal(mr_cert_parse((moor_span){d.bytes, d.len}, &c, NULL), MOOR_OK);
    assert_true(c.has_must_staple);
    assert_int_equal(c.path_len_max, -1);
    assemble(&(struct parts){NULL, .list = "30{06{2b06010505070118}04{30{020111}}}"
                                           "30{06{551d13}04{30{0101ff}}}"},
             &d);
    assert_int_equal(mr_cert_parse((moor_span){d.bytes, d.len}, &c, NULL), MOOR_OK);
    assert_false(c.has_must_staple);
    assert_true(c.is_ca);
    assert_int_equal(c.path_len_max, -1);
    /* A refusal leaves the output alone. */
    c.key_bits = 4711;
    assert_int_equal(mr_cert_parse((moor_span){d.bytes, d.len - 1}, &c, NULL), MOOR_EPROTO);
    assert_int_equal(c.key_bits, 4711);
    assert_int_equal(mr_cert_parse((moor_span){NULL, 0}, &c, NULL), MOOR_EPROTO);
}

static void test_number_of_extensions(void **state)
{
    (void)state;
    static struct der_text d;
    for (size_t over = 0; over <= 1; over++) {
        char list[(MR_CERT_EXTENSIONS_MAX + 1) * 32] = "";
        const char *what = NULL;
        for (unsigned i = 0; i < MR_CERT_EXTENSIONS_MAX + over; i++) {
            char one[32];
            snprintf(one, sizeof one, "30{06{2a%02x}04{}}", i);
            append(list, sizeof list, one);
        }
        assemble(&(struct parts){NULL, .list = list}, &d);
        assert_int_equal(parse_copy(d.bytes, d.len, &what), over ? MOOR_EPROTO : MOOR_OK);
        assert_int_equal(what != NULL, over);
    }
}

static void test_truncated(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(fixtures); i++) {
        for (size_t len = 0; len < fixtures[i].len; len++) {
            const char *what = NULL;
            if (parse_copy(fixtures[i].bytes, len, &what) != MOOR_EPROTO || !what)
                fail_msg("%s: %zu of %zu bytes", fixtures[i].name, len, fixtures[i].len);
        }
    }
}

/* Each byte in turn takes values that lengths, tags and texts turn on: nothing is read outside. */
static void test_damaged(void **state)
{
    (void)state;
    static const unsigned char values[] = {0x00, 0x01, 0x05, 0x1f, 0x30, 0x7f,
                                           0x80, 0x81, 0x82, 0x83, 0x84, 0xff};
    for (size_t i = 0; i < COUNT(fixtures); i++) {
        unsigned char *bytes = der_text_copy(fixtures[i].bytes, fixtures[i].len);
        for (size_t at = 0; at < fixtures[i].len; at++) {
            const unsigned char was = bytes[at];
            for (size_t v = 0; v < COUNT(values) + 10; v++) {
                if (v < COUNT(values))
                    bytes[at] = values[v];
                else if (v < COUNT(values) + 8)
                    bytes[at] = (unsigned char)(was ^ (1u << (v - COUNT(values))));
                else
                    bytes[at] = (unsigned char)(v & 1 ? was + 1 : was - 1);
                const char *what = NULL;
                const moor_err e = parse_copy(bytes, fixtures[i].len, &what);
                assert_int_equal(e, what ? MOOR_EPROTO : MOOR_OK);
            }
            bytes[at] = was;
        }
        free(bytes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fixtures),  cmocka_unit_test(test_spki),
        cmocka_unit_test(test_ca),        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_flags),     cmocka_unit_test(test_number_of_extensions),
        cmocka_unit_test(test_truncated), cmocka_unit_test(test_damaged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
