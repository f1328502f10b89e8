/* URLs: what parses and into what, what is refused and where, decoding, masking. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mask.h"
#include "base/span.h"
#include "base/url.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))

/* Exactly as much storage as promised to suffice, from the heap: ASan sees the byte behind. */
static moor_err parse(const char *text, struct mr_url *u, struct mr_url_fault *f, char **storage)
{
    const size_t len = strlen(text);
    char *copy = malloc(len ? len : 1);
    *storage = malloc(MR_URL_STORAGE(len));
    assert_non_null(copy);
    assert_non_null(*storage);
    memcpy(copy, text, len);
    const moor_err e = mr_url_parse((moor_span){copy, len}, *storage, u, f);
    free(copy);
    return e;
}

static const struct good {
    const char *url;
    enum mr_url_scheme scheme;
    enum mr_url_host_kind kind;
    const char *user, *password; /* NULL = none */
    const char *host;
    uint16_t port;
    const char *target;
} good[] = {
    {"http://example.org", MR_URL_HTTP, MR_URL_NAME, NULL, NULL, "example.org", 80, "/"},
    {"https://example.org/", MR_URL_HTTPS, MR_URL_NAME, NULL, NULL, "example.org", 443, "/"},
    {"h2c://a:1", MR_URL_H2C, MR_URL_NAME, NULL, NULL, "a", 1, "/"},
    {"ws://a/chat", MR_URL_WS, MR_URL_NAME, NULL, NULL, "a", 80, "/chat"},
    {"wss://a/chat", MR_URL_WSS, MR_URL_NAME, NULL, NULL, "a", 443, "/chat"},
    {"tcp://a:7", MR_URL_TCP, MR_URL_NAME, NULL, NULL, "a", 7, ""},
    {"redis://a", MR_URL_REDIS, MR_URL_NAME, NULL, NULL, "a", 6379, ""},
    {"redis://:pw@a/0", MR_URL_REDIS, MR_URL_NAME, "", "pw", "a", 6379, "/0"},
    {"postgres://u:p@a/db", MR_URL_POSTGRES, MR_URL_NAME, "u", "p", "a", 5432, "/db"},
    {"postgresql://a", MR_URL_POSTGRES, MR_URL_NAME, NULL, NULL, "a", 5432, ""},
    {"mysql://a", MR_URL_MYSQL, MR_URL_NAME, NULL, NULL, "a", 3306, ""},
    {"ssh://git@a", MR_URL_SSH, MR_URL_NAME, "git", NULL, "a", 22, ""},
    {"unix:/run/a.sock", MR_URL_UNIX, MR_URL_PATH, NULL, NULL, "/run/a.sock", 0, ""},
    {"unix:///run/a.sock", MR_URL_UNIX, MR_URL_PATH, NULL, NULL, "/run/a.sock", 0, ""},
    {"UNIX:/a%20b%3f", MR_URL_UNIX, MR_URL_PATH, NULL, NULL, "/a b?", 0, ""},
    {"HTTP://EXAMPLE.Org/PaTh", MR_URL_HTTP, MR_URL_NAME, NULL, NULL, "example.org", 80, "/PaTh"},
    {"http://a?q=1", MR_URL_HTTP, MR_URL_NAME, NULL, NULL, "a", 80, "/?q=1"},
    {"http://a#f", MR_URL_HTTP, MR_URL_NAME, NULL, NULL, "a", 80, "/"},
    {"http://a/#f", MR_URL_HTTP, MR_URL_NAME, NULL, NULL, "a", 80, "/"},
    {"http://a/p?q#f?g", MR_URL_HTTP, MR_URL_NAME, NULL, NULL, "a", 80, "/p?q"},
    {"http://a/p?q=a/b?c:@", MR_URL_HTTP, MR_URL_NAME, NULL, NULL, "a", 80, "/p?q=a/b?c:@"},
    {"http://a/?", MR_URL_HTTP, MR_URL_NAME, NULL, NULL, "a", 80, "/?"},
    {"http://a?", MR_URL_HTTP, MR_URL_NAME, NULL, NULL, "a", 80, "/?"},
    {"http://a//b/../c", MR_URL_HTTP, MR_URL_NAME, NULL, NULL, "a", 80, "//b/../c"},
    {"http://a/%41%2f", MR_URL_HTTP, MR_URL_NAME, NULL, NULL, "a", 80, "/%41%2f"},
    {"http://a/%00", MR_URL_HTTP, MR_URL_NAME, NULL, NULL, "a", 80, "/%00"},
    {"http://a/{x}|[y]", MR_URL_HTTP, MR_URL_NAME, NULL, NULL, "a", 80, "/{x}|[y]"},
    {"http://a:8080/p", MR_URL_HTTP, MR_URL_NAME, NULL, NULL, "a", 8080, "/p"},
    {"http://a:65535", MR_URL_HTTP, MR_URL_NAME, NULL, NULL, "a", 65535, "/"},
    {"http://a:00080", MR_URL_HTTP, MR_URL_NAME, NULL, NULL, "a", 80, "/"},
    {"http://a.", MR_URL_HTTP, MR_URL_NAME, NULL, NULL, "a.", 80, "/"},
    {"http://a_b.c-d.xn--mnchen-3ya.de", MR_URL_HTTP, MR_URL_NAME, NULL, NULL,
     "a_b.c-d.xn--mnchen-3ya.de", 80, "/"},
    {"http://127.0.0.1:80", MR_URL_HTTP, MR_URL_IPV4, NULL, NULL, "127.0.0.1", 80, "/"},
    {"http://255.255.255.255", MR_URL_HTTP, MR_URL_IPV4, NULL, NULL, "255.255.255.255", 80, "/"},
    {"http://1.2.3.4a", MR_URL_HTTP, MR_URL_NAME, NULL, NULL, "1.2.3.4a", 80, "/"},
    {"http://1a", MR_URL_HTTP, MR_URL_NAME, NULL, NULL, "1a", 80, "/"},
    {"http://0xyz", MR_URL_HTTP, MR_URL_NAME, NULL, NULL, "0xyz", 80, "/"},
    {"http://[::1]", MR_URL_HTTP, MR_URL_IPV6, NULL, NULL, "::1", 80, "/"},
    {"http://[::1]:8080/", MR_URL_HTTP, MR_URL_IPV6, NULL, NULL, "::1", 8080, "/"},
    {"http://[2001:DB8::A]", MR_URL_HTTP, MR_URL_IPV6, NULL, NULL, "2001:db8::a", 80, "/"},
    {"http://[::ffff:1.2.3.4]", MR_URL_HTTP, MR_URL_IPV6, NULL, NULL, "::ffff:1.2.3.4", 80, "/"},
    {"http://u@a", MR_URL_HTTP, MR_URL_NAME, "u", NULL, "a", 80, "/"},
    {"http://u:@a", MR_URL_HTTP, MR_URL_NAME, "u", "", "a", 80, "/"},
    {"http://@a", MR_URL_HTTP, MR_URL_NAME, "", NULL, "a", 80, "/"},
    {"http://u:p:q@a", MR_URL_HTTP, MR_URL_NAME, "u", "p:q", "a", 80, "/"},
    {"http://u%40x:p%3A%2F%25@a", MR_URL_HTTP, MR_URL_NAME, "u@x", "p:/%", "a", 80, "/"},
    {"http://u:%c3%A4@a", MR_URL_HTTP, MR_URL_NAME, "u", "\xc3\xa4", "a", 80, "/"},
    {"http://u:p@[::1]:8/x", MR_URL_HTTP, MR_URL_IPV6, "u", "p", "::1", 8, "/x"},
    {"http://a/@b:c", MR_URL_HTTP, MR_URL_NAME, NULL, NULL, "a", 80, "/@b:c"},
    {"http://a?@b", MR_URL_HTTP, MR_URL_NAME, NULL, NULL, "a", 80, "/?@b"},
};

static void expect_span(const char *url, const char *part, moor_span got, const char *wanted)
{
    if (!mr_span_is_equal(got, mr_span_cstr(wanted)) || ((const char *)got.base)[got.len] != 0)
        fail_msg("%s: %s is \"%.*s\", not \"%s\"", url, part, (int)got.len, (const char *)got.base,
                 wanted);
}

static void test_good_urls(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(good); i++) {
        const struct good *g = &good[i];
        struct mr_url u;
        struct mr_url_fault f;
        char *storage;
        if (parse(g->url, &u, &f, &storage) != MOOR_OK)
            fail_msg("%s: %s at %zu", g->url, f.what, f.at);
        assert_int_equal(u.scheme, g->scheme);
        assert_int_equal(u.host_kind, g->kind);
        assert_int_equal(u.port, g->port);
        assert_int_equal(u.has_userinfo, g->user != NULL);
        assert_int_equal(u.has_password, g->password != NULL);
        expect_span(g->url, "user", u.user, g->user ? g->user : "");
        expect_span(g->url, "password", u.password, g->password ? g->password : "");
        expect_span(g->url, "target", u.target, g->target);
        expect_span(g->url, "host", u.host, g->host);
        free(storage);
    }
}

static const struct bad {
    const char *url;
    size_t at;
    const char *what; /* a part of it */
} bad[] = {
    {"", 0, "empty"},
    {"example.org", 0, "scheme is missing"},
    {"/path", 0, "scheme is missing"},
    {"://a", 0, "scheme is missing"},
    {"1http://a", 0, "unknown scheme"},
    {"+x://a", 0, "scheme is missing"},
    {"example.org:80", 12, "// is missing"},
    {"http:", 5, "// is missing"},
    {"http:/a", 5, "// is missing"},
    {"http:a", 5, "// is missing"},
    {"ftp://a", 0, "unknown scheme"},
    {"httpx://a", 0, "unknown scheme"},
    {"file:///etc/passwd", 0, "unknown scheme"},
    {"http://", 7, "host is missing"},
    {"http:///p", 7, "host is missing"},
    {"http://?q", 7, "host is missing"},
    {"http://:80", 7, "host is missing"},
    {"http://u@", 9, "host is missing"},
    {"http://u:p@:80", 11, "host is missing"},
    {"http://a:", 9, "port is missing"},
    {"http://a:/", 9, "port is missing"},
    {"http://a:0", 9, "1 to 65535"},
    {"http://a:65536", 9, "1 to 65535"},
    {"http://a:99999999999999999999", 9, "1 to 65535"},
    {"http://a:-1", 9, "1 to 65535"},
    {"http://a:+80", 9, "1 to 65535"},
    {"http://a:80x", 9, "1 to 65535"},
    {"http://a:80:80", 9, "1 to 65535"},
    {"tcp://a", 7, "needs a port"},
    {"tcp://a/x", 7, "needs a port"},
    {" http://a", 0, "a space"},
    {"http://a ", 8, "a space"},
    {"http://a/b c", 10, "a space"},
    {"http://a b/", 8, "a space"},
    {"http://a/\r\nHost: b", 9, "control"},
    {"http://a/\t", 9, "control"},
    {"http://a\n", 8, "control"},
    {"http://a/\x7f", 9, "control"},
    {"http://m\xc3\xbcnchen.de/", 8, "IDN is not supported"},
    {"http://a/\xc3\xbc", 9, "not ASCII"},
    {"http://a?\xc3\xbc", 9, "not ASCII"},
    {"http://a#\xc3\xbc", 9, "not ASCII"},
    {"unix:/\xc3\xbc", 6, "not ASCII"},
    {"http://a/%", 9, "% is not followed"},
    {"http://a/%4", 9, "% is not followed"},
    {"http://a/%4g", 9, "% is not followed"},
    {"http://a?100%", 12, "% is not followed"},
    {"http://%61", 7, "% in the host"},
    {"http://a%2eb", 8, "% in the host"},
    {"http://a%00", 8, "% in the host"},
    {"http://a..b", 9, "empty label"},
    {"http://.a", 7, "empty label"},
    {"http://.", 7, "empty label"},
    {"http://a..", 9, "empty label"},
    {"http://a\\b", 8, "not allowed in a host"},
    {"http://a,b", 8, "not allowed in a host"},
    {"http://a*b", 8, "not allowed in a host"},
    {"http://<a>", 7, "not allowed in a host"},
    {"http://a]b", 8, "not allowed in a host"},
    {"http://1.2.3", 7, "not an IPv4"},
    {"http://1.2.3.4.5", 7, "not an IPv4"},
    {"http://1.2.3.256", 7, "not an IPv4"},
    {"http://1.2.3.04", 7, "not an IPv4"},
    {"http://2130706433", 7, "not an IPv4"},
    {"http://127.1", 7, "not an IPv4"},
    {"http://0x7f000001", 7, "not an IPv4"},
    {"http://0x7f.1", 7, "not an IPv4"},
    {"http://1.2.3.4.", 7, "not an IPv4"},
    {"http://a.5", 7, "not an IPv4"},
    {"http://[::1", 7, "] is missing"},
    {"http://[]", 8, "not an IPv6"},
    {"http://[1.2.3.4]", 8, "not an IPv6"},
    {"http://[::g]", 8, "not an IPv6"},
    {"http://[::1]x", 12, "only a port"},
    {"http://[::1]:", 13, "port is missing"},
    {"http://[fe80::1%25eth0]", 15, "zones"},
    {"http://[v1.x]", 8, "not an IPv6"},
    {"http://::1", 7, "host is missing"},
    {"http://u@b@a", 8, "@ in the userinfo"},
    {"http://u:p@q@a", 10, "@ in the userinfo"},
    {"http://u%@a", 8, "% is not followed"},
    {"http://u%4@a", 8, "% is not followed"},
    {"http://u%00@a", 8, "% is not followed"},
    {"http://u:%0@a", 9, "% is not followed"},
    {"http://u\\@a", 8, "not allowed in the userinfo"},
    {"http://u[@a", 8, "not allowed in the userinfo"},
    {"unix:", 5, "absolute path"},
    {"unix:a", 5, "absolute path"},
    {"unix://a/b", 5, "absolute path"},
    {"unix:/", 6, "path is missing"},
    {"unix:/a?b", 7, "no query"},
    {"unix:/a#b", 7, "no query"},
    {"unix:/a%00b", 7, "% is not followed"},
};

static void test_bad_urls(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(bad); i++) {
        struct mr_url u = {.port = 4711};
        struct mr_url_fault f = {"", 0};
        char *storage;
        const moor_err e = parse(bad[i].url, &u, &f, &storage);
        if (e == MOOR_OK || !strstr(f.what, bad[i].what) || f.at != bad[i].at)
            fail_msg("\"%s\": %s, \"%s\" at %zu", bad[i].url, moor_err_name(e), f.what, f.at);
        assert_int_equal(e, strstr(f.what, "unknown scheme") ? MOOR_ENOSYS : MOOR_EINVAL);
        assert_int_equal(u.port, 4711);
        free(storage);
    }
}

/* before + n times c + after */
static char *long_url(const char *before, size_t n, const char *after)
{
    char *text = malloc(strlen(before) + n + strlen(after) + 1);
    assert_non_null(text);
    memcpy(text, before, strlen(before));
    memset(text + strlen(before), 'a', n);
    memcpy(text + strlen(before) + n, after, strlen(after) + 1);
    return text;
}

static void test_limits(void **state)
{
    (void)state;
    static const struct {
        const char *before, *after;
        size_t max;
    } limits[] = {
        {"http://", "", MR_URL_LABEL_MAX},
        {"http://b.", ".", MR_URL_LABEL_MAX},
        {"http://", "@h", MR_URL_USER_MAX},
        {"http://u:", "@h", MR_URL_PASSWORD_MAX},
        {"unix:/", "", MR_URL_PATH_MAX - 1},
        {"http://h/", "", MR_URL_MAX - 9},
        /* Four labels of 49 and their dots leave 53 for the fifth. */
        {"http://1234567890123456789012345678901234567890123456789."
         "1234567890123456789012345678901234567890123456789."
         "1234567890123456789012345678901234567890123456789."
         "1234567890123456789012345678901234567890123456789.",
         ".", 53},
    };
    for (size_t i = 0; i < COUNT(limits); i++) {
        for (size_t over = 0; over <= 1; over++) {
            struct mr_url u;
            struct mr_url_fault f = {"", 0};
            char *storage;
            char *url = long_url(limits[i].before, limits[i].max + over, limits[i].after);
            const moor_err e = parse(url, &u, &f, &storage);
            if (e != (over ? MOOR_ETOOBIG : MOOR_OK))
                fail_msg("limit %zu + %zu: %s %s", limits[i].max, over, moor_err_name(e), f.what);
            if (over)
                assert_non_null(strstr(f.what, "longer"));
            free(storage);
            free(url);
        }
    }
}

static void test_scheme_facts(void **state)
{
    (void)state;
    assert_string_equal(mr_url_scheme_name(MR_URL_WSS), "wss");
    assert_true(mr_url_scheme_is_tls(MR_URL_HTTPS));
    assert_false(mr_url_scheme_is_tls(MR_URL_REDIS));
    assert_true(mr_url_scheme_is_http(MR_URL_H2C));
    assert_false(mr_url_scheme_is_http(MR_URL_TCP));
    struct mr_url u;
    char storage[MR_URL_STORAGE(8)];
    assert_int_equal(mr_url_parse(MR_SPAN("ftp://a"), storage, &u, NULL), MOOR_ENOSYS);
}

static void test_masking(void **state)
{
    (void)state;
    static const struct {
        const char *text, *masked;
    } cases[] = {
        {"http://u:secret@a/p", "http://u:***@a/p"},
        {"redis://:secret@a", "redis://:***@a"},
        {"http://u:@a", "http://u:***@a"},
        {"http://u:", "http://u:"},
        {"http://u:12", "http://u:12"},
        {"http://u:12@a", "http://u:***@a"},
        {"http://u:secr", "http://u:***"},
        {"http://u:my secret@a", "http://u:***@a"},
        {"http://[::1]:80/p@q", "http://[::1]:80/p@q"},
        {"http://u@a/p", "http://u@a/p"},
        {"http://a:80/p@q", "http://a:80/p@q"},
        {"http://a/p:x@q", "http://a/p:x@q"},
        {"http://[::1]:80/", "http://[::1]:80/"},
        /* Not URLs, but secrets. */
        {"http://u:se/cr?et@a/p", "http://u:***@a/p"},
        {"http://u:se@cr@et@a/p", "http://u:***@a/p"},
        {"nonsense://u:secret@", "nonsense://u:***@"},
        {"GET /?token=abc&x=1", "GET /?token=***&x=1"},
        {"PASSWORD=abc;x", "PASSWORD=***;x"},
        {"Authorization: Basic dTpw\r\nHost: a", "Authorization:***??Host: a"},
        {"a\nb\x1b[31m\xff", "a?b?[31m?"},
        {"", ""},
    };
    char buf[128];
    for (size_t i = 0; i < COUNT(cases); i++)
        assert_string_equal(mr_url_masked(mr_span_cstr(cases[i].text), buf, sizeof buf),
                            cases[i].masked);
    assert_string_equal(
        mr_mask(MR_SPAN("dial http://u:s1@a then http://v:s2@b failed"), buf, sizeof buf),
        "dial http://u:***@a then http://v:***@b failed");
    assert_string_equal(mr_mask(MR_SPAN("http://u:secret@a"), buf, 12), "http://u:**");
    assert_string_equal(mr_mask(MR_SPAN("abc"), buf, 1), "");
    assert_string_equal(mr_mask((moor_span){NULL, 0}, buf, 8), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_urls), cmocka_unit_test(test_bad_urls),
        cmocka_unit_test(test_limits),    cmocka_unit_test(test_scheme_facts),
        cmocka_unit_test(test_masking),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
