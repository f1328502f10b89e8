/* Distinguished names: what is one, and how it reads. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/support/der_text.h"
#include "tls/der.h"
#include "tls/dn.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))
#define CN       "06{550403}"

static const struct {
    const char *der;
    const char *text; /* NULL = no valid name */
} cases[] = {
    {"30{}", ""},
    {"30{31{30{" CN "0c{'localhost'}}}}", "CN=localhost"},
    {"30{31{30{" CN "0c{'a'}}} 31{30{06{55040a}13{'Acme'}}}}", "CN=a, O=Acme"},
    {"30{31{30{" CN "0c{'a'}} 30{06{55040b}0c{'b'}}} 31{30{06{550406}13{'DE'}}}}",
     "CN=a + OU=b, C=DE"},
    {"30{31{30{06{550405}13{'1'}}} 31{30{06{550407}13{'2'}}} 31{30{06{550408}13{'3'}}}"
     "31{30{06{550409}13{'4'}}}}",
     "serialNumber=1, L=2, ST=3, street=4"},
    {"30{31{30{06{0992268993f22c640119}16{'org'}}} 31{30{06{0992268993f22c640101}0c{'u'}}}"
     "31{30{06{2a864886f70d010901}16{'a@b'}}}}",
     "DC=org, UID=u, emailAddress=a@b"},
    /* Types without a name, up to the largest numbers printed and beyond. */
    {"30{31{30{06{55040d}0c{'a'}}}}", "2.5.4.13=a"},
    {"30{31{30{06{00}0c{'a'}}}}", "0.0=a"},
    {"30{31{30{06{27}0c{'a'}}}}", "0.39=a"},
    {"30{31{30{06{28}0c{'a'}}}}", "1.0=a"},
    {"30{31{30{06{4f}0c{'a'}}}}", "1.39=a"},
    {"30{31{30{06{50}0c{'a'}}}}", "2.0=a"},
    {"30{31{30{06{8837}0c{'a'}}}}", "2.999=a"},
    {"30{31{30{06{2a8fffffff7f}0c{'a'}}}}", "1.2.4294967295=a"},
    {"30{31{30{06{2a8fffffffff00}0c{'a'}}}}", "1.2.?=a"},
    {"30{31{30{06{2a0a640b}0c{'a'}}}}", "1.2.10.100.11=a"},
    {"30{31{30{06{2a9080808000}0c{'a'}}}}", "1.2.?=a"},
    {"30{31{30{06{2affffffffffffffffffffffffffffff7f03}0c{'a'}}}}", "1.2.?.3=a"},
    {"30{31{30{06{ffffffffffffffffffff7f}0c{'a'}}}}", "2.?=a"},
    /* Nothing a value holds looks like another value, another line or a terminal's command. */
    {"30{31{30{" CN "0c{'a, CN=b'}}}}", "CN=a\\, CN=b"},
    {"30{31{30{" CN "0c{'a + O=b'}}}}", "CN=a \\+ O=b"},
    {"30{31{30{" CN "0c{'\\'}}}}", "CN=\\\\"},
    {"30{31{30{" CN "0c{'a'00'b'0d0a1b7f c3a9}}}}", "CN=a?b??????"},
    {"30{31{30{" CN "0c{}}}}", "CN="},
    /* Two and four bytes a character. */
    {"30{31{30{" CN "1e{0061 002c 2662 0062 00}}}}", "CN=a\\,?b"},
    {"30{31{30{" CN "1c{00000061 01000062 00010062 00000162 0000}}}}", "CN=a???"},
    /* A value may be anything at all. */
    {"30{31{30{" CN "30{0400}}}}", "CN=??"},
    {"31{31{30{" CN "0c{'a'}}}}", NULL},
    {"30{30{30{" CN "0c{'a'}}}}", NULL},
    {"30{31{}}", NULL},
    {"30{31{30{}}}", NULL},
    {"30{31{30{" CN "}}}", NULL},
    {"30{31{30{" CN "0c{'a'}0500}}}", NULL},
    {"30{31{30{06{}0c{'a'}}}}", NULL},
    {"30{31{30{06{5580}0c{'a'}}}}", NULL},
    {"30{31{30{0c{'a'}" CN "}}}", NULL},
    {"30{31{30{" CN "0c{'a'}}0500}}", NULL},
    {"30{31{30{" CN "0c{'a'}}}00}", NULL},
    {"30{31{30{" CN "0c02'a'}}}", NULL},
};

static void test_names(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct der_text d = {.len = 0};
        struct mr_der list = {.tag = 0};
        char buf[128];
        der_text_add(&d, cases[i].der);
        unsigned char *bytes = der_text_copy(d.bytes, d.len);
        moor_span rest = {bytes, d.len};
        const bool is_valid =
            mr_der_take(&rest, MR_DER_SEQUENCE, &list) && mr_dn_is_valid(list.body);
        if (is_valid != (cases[i].text != NULL))
            fail_msg("%s", cases[i].der);
        /* Of what is no name the text says as much as there is. */
        assert_ptr_equal(mr_dn_text((moor_span){bytes, d.len}, buf, sizeof buf), buf);
        if (is_valid)
            assert_string_equal(buf, cases[i].text);
        free(bytes);
    }
}

static void test_cut(void **state)
{
    (void)state;
    static const char text[] = "CN=a\\, CN=b";
    struct der_text d = {.len = 0};
    der_text_add(&d, "30{31{30{" CN "0c{'a, CN=b'}}}}");
    for (size_t cap = 1; cap <= sizeof text; cap++) {
        char *buf = malloc(cap);
        assert_non_null(buf);
        mr_dn_text((moor_span){d.bytes, d.len}, buf, cap);
        assert_int_equal(strlen(buf), cap - 1);
        assert_memory_equal(buf, text, cap - 1);
        free(buf);
    }
    char untouched = 'x';
    mr_dn_text((moor_span){NULL, 0}, &untouched, 1);
    assert_int_equal(untouched, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
