/* Trusted roots by name, and our rules for a chain: what is refused that the TLS library let pass. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/span.h"
#include "core/runtime.h"
#include "tests/support/certs_der.h"
#include "tls/chain.h"
#include "tls/verify.h"

#include <mooring/mooring.h>

#define COUNT(a)   (sizeof(a) / sizeof *(a))
#define DER(name)  ((moor_span){der_##name, sizeof der_##name})
#define IN_2025    1750000000
#define BEFORE     1700000000
#define AFTER_2034 2019686401

static moor_runtime *runtime, *outside;
static char pem[65536];
static struct mr_tls_context context;

static int setup(void **state)
{
    (void)state;
    moor_runtime_options o;
    moor_runtime_options_init(&o);
    o.shards = 0;
    o.log_level = MOOR_LOG_OFF;
    pem[0] = '\0';
    memset(&context, 0, sizeof context);
    if (moor_runtime_create(&o, &runtime) || mr_tls_library_begin())
        return -1;
    outside = mr_tls_enter(runtime);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    mr_tls_roots_drop(&runtime->heap, &context.roots);
    mr_tls_leave(outside);
    return moor_runtime_destroy(runtime, 1000) == MOOR_OK ? 0 : -1;
}

static void put_text(const char *text)
{
    const size_t len = strlen(pem);
    assert_true(len + strlen(text) < sizeof pem);
    snprintf(pem + len, sizeof pem - len, "%s", text);
}

static void put_pem(moor_span der)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const uint8_t *at = der.base;
    put_text("-----BEGIN CERTIFICATE-----\n");
    for (size_t i = 0; i < der.len; i += 3) {
        const size_t n = der.len - i < 3 ? der.len - i : 3;
        const unsigned bits = (unsigned)at[i] << 16 | (n > 1 ? (unsigned)at[i + 1] << 8 : 0u) |
                              (n > 2 ? (unsigned)at[i + 2] : 0u);
        const char four[] = {digits[bits >> 18], digits[bits >> 12 & 63],
                             n > 1 ? digits[bits >> 6 & 63] : '=', n > 2 ? digits[bits & 63] : '=',
                             '\0'};
        put_text(four);
        if (i % 48 == 45)
            put_text("\n");
    }
    put_text("\n-----END CERTIFICATE-----\n");
}

static void read_roots(void)
{
    assert_int_equal(mr_tls_roots_read(&runtime->heap, pem, &context.roots), MOOR_OK);
}

static const struct mr_tls_root *find_subject(moor_span der)
{
    struct mr_cert c;
    assert_int_equal(mr_cert_parse(der, &c, NULL), MOOR_OK);
    return mr_tls_roots_find(&context.roots, c.subject);
}

static void test_roots_by_name(void **state)
{
    (void)state;
    put_text("a text before\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    put_pem(DER(ca));
    put_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    put_pem(DER(p256));
    put_pem(DER(p384)); /* of the same name */
    put_pem(DER(ca));
    put_text("-----BEGIN CERTIFICATE-----\n");
    read_roots();
    assert_int_equal(context.roots.count, 2);
    assert_int_equal(find_subject(DER(ca))->path_len_max, 3);
    assert_int_equal(find_subject(DER(p256))->path_len_max, -1);
    assert_ptr_equal(find_subject(DER(p256)), find_subject(DER(p384)));
    assert_null(find_subject(DER(rsa)));
    assert_null(mr_tls_roots_find(&context.roots, (moor_span){NULL, 0}));
}

static void test_no_roots(void **state)
{
    (void)state;
    put_text("nothing");
    read_roots();
    assert_int_equal(context.roots.count, 0);
    assert_null(find_subject(DER(ca)));
}

static const char *verify(moor_span der, const char *host, int64_t now_s)
{
    struct mr_cert leaf;
    return mr_tls_verify(
        &(struct mr_tls_check){.context = &context, .host = mr_span_cstr(host), .now_s = now_s},
        &der, 1, &leaf);
}

static void expect(const char *got, const char *words)
{
    if (!words != !got || (got && !strstr(got, words)))
        fail_msg("\"%s\" instead of \"%s\"", got ? got : "all is well", words ? words : "nothing");
}

static void test_one_certificate(void **state)
{
    (void)state;
    expect(verify(DER(p256), "localhost", IN_2025), "incomplete");
    put_pem(DER(p256));
    read_roots();
    expect(verify(DER(p256), "localhost", IN_2025), NULL);
    expect(verify(DER(p256), "localhost", BEFORE), "not valid yet");
    expect(verify(DER(p256), "localhost", AFTER_2034), "expired");
    expect(verify(DER(p256), "other", IN_2025), "not for this host");
    expect(verify(DER(rsa), "localhost", IN_2025), "incomplete");
    expect(verify(DER(no_san), "localhost", IN_2025), "not for this host");
    expect(verify((moor_span){der_p256, 20}, "localhost", IN_2025), "malformed");
    context.pin_count = 1;
    expect(verify(DER(p256), "localhost", IN_2025), "not pinned");
}

static void test_numbers_of_certificates(void **state)
{
    (void)state;
    moor_span chain[MR_TLS_CHAIN_MAX + 1];
    struct mr_cert leaf;
    const struct mr_tls_check check = {
        .context = &context, .host = MR_SPAN("localhost"), .now_s = IN_2025};
    for (size_t i = 0; i < COUNT(chain); i++)
        chain[i] = DER(p256);
    put_pem(DER(p256));
    read_roots();
    expect(mr_tls_verify(&check, chain, 0, &leaf), "none");
    expect(mr_tls_verify(&check, chain, MR_TLS_CHAIN_MAX, &leaf), NULL);
    expect(mr_tls_verify(&check, chain, MR_TLS_CHAIN_MAX + 1, &leaf), "too long");
}

static void test_authorities(void **state)
{
    (void)state;
    expect(mr_tls_verify_authority(DER(ca)), NULL);
    expect(mr_tls_verify_authority(DER(rsa_md5)), NULL); /* its own issuer */
    expect(mr_tls_verify_authority((moor_span){der_ca, sizeof der_ca - 1}), "malformed");
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(test_roots_by_name),           CASE(test_no_roots),    CASE(test_one_certificate),
        CASE(test_numbers_of_certificates), CASE(test_authorities),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
