/* Name constraints: what is well-formed, and which addresses and hosts an authority may vouch for. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/support/der_text.h"
#include "tls/constraints.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))

static struct der_text value, names;

static moor_span build(struct der_text *d, const char *text)
{
    memset(d, 0, sizeof *d);
    der_text_add(d, text);
    return (moor_span){d->bytes, d->len};
}

/* ---- form ---- */

static bool is_valid(const char *text)
{
    const moor_span v = build(&value, text);
    unsigned char *copy = der_text_copy(v.base, v.len);
    const bool is = mr_constraints_are_valid((moor_span){copy, v.len});
    free(copy);
    return is;
}

static const char *const well_formed[] = {
    "30{}",
    "30{ a0{ 30{82{'a.test'}} } }",
    "30{ a1{ 30{82{'.a.test'}} } }",
    "30{ a0{ 30{87{7f000000ff000000}} } a1{ 30{82{}} 30{81{'@a.test'}} } }",
    "30{ a1{ 30{87{20010db8000000000000000000000000ffffffff000000000000000000000000}} } }",
};

static const char *const malformed[] = {
    "",
    "31{}",
    "30{} 00",
    "30{ a2{} }",
    "30{ a1{} a0{} }",
    "30{ a0{} a0{} }",
    "30{ a0{ 30{} } }",
    "30{ a0{ 31{82{'a.test'}} } }",
    "30{ a0{ 30{82{'a.test'} 80{00}} } }",
    "30{ a0{ 30{82{'a.test'} 81{05}} } }",
    "30{ a0{ 30{87{7f000001}} } }",
    "30{ a1{ 30{87{7f000000ff0000}} } }",
    "30{ a1{ 30{87{}} } }",
    "30{ a0{ 30{82{'a.test'}} 00 } }",
    "30{ a0{ 30{82 07 'a.test'} } }",
};

static void test_forms(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(well_formed); i++)
        if (!is_valid(well_formed[i]))
            fail_msg("refused: %s", well_formed[i]);
    for (size_t i = 0; i < COUNT(malformed); i++)
        if (is_valid(malformed[i]))
            fail_msg("taken: %s", malformed[i]);
}

/* ---- subtrees ---- */

static bool allows(const char *constraints, const char *san, const char *host, bool is_ip)
{
    struct mr_cert leaf = {.san = build(&names, san)};
    const moor_span v = build(&value, constraints);
    if (!mr_constraints_are_valid(v))
        fail_msg("malformed: %s", constraints);
    return mr_constraints_allow(v, &leaf, mr_span_cstr(host), is_ip);
}

#define V4        "30{87{0a010200ffffff00}}"
#define V6        "30{87{20010db8000000000000000000000000ffffffff000000000000000000000000}}"
#define ALL_V4    "30{87{0000000000000000}}"
#define NAMES     "30{82{'a.test'}}"
#define IN_V4     "87{0a010263}"
#define OUT_OF_V4 "87{0a010363}"
#define IN_V6     "87{20010db8000100000000000000000001}"
#define OUT_OF_V6 "87{20010db9000100000000000000000001}"

static const struct {
    const char *constraints, *san;
    bool is_allowed;
} addresses[] = {
    {"30{}", IN_V4, true},
    {"30{ a0{" V4 "} }", IN_V4, true},
    {"30{ a0{" V4 "} }", OUT_OF_V4, false},
    {"30{ a0{" V4 "} }", IN_V4 OUT_OF_V4, false},
    {"30{ a0{" V4 "} }", IN_V6, false},
    {"30{ a0{" V4 V6 "} }", IN_V4 IN_V6, true},
    {"30{ a0{" V6 "} }", IN_V6, true},
    {"30{ a0{" V6 "} }", OUT_OF_V6, false},
    {"30{ a0{" V6 "} }", IN_V4, false},
    {"30{ a0{" NAMES "} }", OUT_OF_V4, true},
    {"30{ a1{" V4 "} }", IN_V4, false},
    {"30{ a1{" V4 "} }", OUT_OF_V4 IN_V4, false},
    {"30{ a1{" V4 "} }", OUT_OF_V4, true},
    {"30{ a1{" V4 "} }", IN_V6, true},
    {"30{ a1{" V6 "} }", IN_V6, false},
    {"30{ a1{" V6 "} }", OUT_OF_V6, true},
    {"30{ a1{" ALL_V4 "} }", OUT_OF_V4, false},
    {"30{ a1{" ALL_V4 "} }", IN_V6, true},
    {"30{ a0{" ALL_V4 "} a1{" V4 "} }", IN_V4, false},
    {"30{ a0{" ALL_V4 "} a1{" V4 "} }", OUT_OF_V4, true},
    {"30{ a0{ 30{87{0a010200ffffffff}} } }", IN_V4, false},
    {"30{ a0{ 30{87{0a010263ffffffff}} } }", IN_V4, true},
    {"30{ a0{ 30{87{0a01027fffffff80}} } }", IN_V4, true},
};

/* Every address of the leaf counts, whatever host is meant. */
static void test_addresses(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(addresses); i++)
        for (int is_ip = 0; is_ip < 2; is_ip++)
            if (allows(addresses[i].constraints, addresses[i].san, is_ip ? "10.1.2.99" : "x.test",
                       is_ip) != addresses[i].is_allowed)
                fail_msg("%s, %s: not %d", addresses[i].constraints, addresses[i].san,
                         addresses[i].is_allowed);
}

static const struct {
    const char *base, *host;
    bool is_excluded;
} hosts[] = {
    {"a.test", "a.test", true},
    {"a.test", "b.a.test", true},
    {"a.test", "c.b.a.test", true},
    {"a.test", "ba.test", false},
    {"a.test", "test", false},
    {"a.test", "a.test.org", false},
    {"a.test", "A.TEST", true},
    {"A.Test", "b.a.tEST", true},
    {"a.test", "a.test.", true},
    {"a.test", "b.a.test.", true},
    {".a.test", "a.test", false},
    {".a.test", "b.a.test", true},
    {".a.test", "B.A.TEST.", true},
    {".a.test", "ba.test", false},
    {"", "a.test", true},
    {"", "a", true},
    {"a.test.longer", "a.test", false},
};

static void test_hosts(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(hosts); i++) {
        char text[128];
        snprintf(text, sizeof text, "30{ a1{ 30{82{'z.org'}} 30{82{'%s'}} } }", hosts[i].base);
        if (allows(text, "82{'x.test'}", hosts[i].host, false) == hosts[i].is_excluded)
            fail_msg("\"%s\", %s: not %d", hosts[i].base, hosts[i].host, hosts[i].is_excluded);
        assert_true(allows(text, "82{'x.test'}", hosts[i].host, true));
    }
    assert_true(allows("30{ a1{ 30{81{'a.test'}} } }", "82{'a.test'}", "a.test", false));
}

/* ---- damage ---- */

static void test_cuts_and_flips(void **state)
{
    (void)state;
    static const char text[] = "30{ a0{" V4 V6 NAMES "} a1{" V4 "30{82{'.b.test'}} } }";
    const moor_span v = build(&value, text);
    const struct mr_cert leaf = {.san = build(&names, IN_V4 IN_V6 "82{'a.test'}")};
    for (size_t len = 0; len < v.len; len++) {
        unsigned char *cut = der_text_copy(v.base, len);
        assert_false(mr_constraints_are_valid((moor_span){cut, len}));
        (void)mr_constraints_allow((moor_span){cut, len}, &leaf, MR_SPAN("a.test"), false);
        free(cut);
    }
    for (size_t bit = 0; bit < 8 * v.len; bit++) {
        unsigned char *bent = der_text_copy(v.base, v.len);
        bent[bit / 8] ^= (unsigned char)(1u << bit % 8);
        (void)mr_constraints_are_valid((moor_span){bent, v.len});
        (void)mr_constraints_allow((moor_span){bent, v.len}, &leaf, MR_SPAN("a.test"), false);
        free(bent);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms),
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_hosts),
        cmocka_unit_test(test_cuts_and_flips),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
