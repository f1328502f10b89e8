/* Algorithms of certificates: which signatures are weak, which keys are read and how long they are. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/support/der_text.h"
#include "tls/algorithm.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))

#define GOOD    MR_STRENGTH_GOOD
#define WEAK    MR_STRENGTH_WEAK
#define UNKNOWN MR_STRENGTH_UNKNOWN
#define REFUSED (-1)

#define RSA    "2a864886f70d0101"
#define PSS    "06{" RSA "0a}"
#define MGF1   "06{" RSA "08}"
#define SHA1   "30{06{2b0e03021a}0500}"
#define SHA256 "30{06{608648016503040201}0500}"
#define MD5    "30{06{2a864886f70d0205}0500}"
#define OTHER  "30{06{2a03}}"

static const struct {
    const char *identifier;
    int strength;
} signatures[] = {
    {"06{" RSA "0b}0500", GOOD},
    {"06{" RSA "0b}", GOOD},
    {"06{" RSA "0c}0500", GOOD},
    {"06{" RSA "0d}0500", GOOD},
    {"06{" RSA "0e}0500", GOOD},
    {"06{2a8648ce3d040301}", GOOD},
    {"06{2a8648ce3d040302}", GOOD},
    {"06{2a8648ce3d040303}", GOOD},
    {"06{2a8648ce3d040304}", GOOD},
    {"06{2b6570}", GOOD},
    {"06{2b6571}", GOOD},
    {"06{" RSA "02}0500", WEAK},
    {"06{" RSA "03}0500", WEAK},
    {"06{" RSA "04}0500", WEAK},
    {"06{" RSA "05}0500", WEAK},
    {"06{2a8648ce3d0401}", WEAK},
    {"06{2b0e030202}", WEAK},
    {"06{2b0e030203}", WEAK},
    {"06{2b0e030204}", WEAK},
    {"06{2b0e03020d}", WEAK},
    {"06{2b0e03020f}", WEAK},
    {"06{2b0e03021b}", WEAK},
    {"06{2b0e03021d}", WEAK},
    {"06{2a8648ce380403}", WEAK},
    {"06{608648016503040301}", WEAK},
    {"06{608648016503040302}", WEAK},
    {"06{608648016503040308}", WEAK},
    {"06{60864801650304030a}", UNKNOWN}, /* ECDSA with SHA3-256 */
    {"06{60864801650304030e}", UNKNOWN}, /* RSA with SHA3-256 */
    {"06{608648016503040311}", UNKNOWN}, /* ML-DSA-44 */
    {"06{" RSA "01}0500", UNKNOWN},
    {"06{2a03}30{0500}", UNKNOWN},
    /* RSA-PSS: what is not said is SHA-1. */
    {PSS, WEAK},
    {PSS "30{}", WEAK},
    {PSS "30{a0{" SHA256 "}}", WEAK},
    {PSS "30{a1{30{" MGF1 SHA256 "}}}", WEAK},
    {PSS "30{a0{" SHA256 "}a1{30{" MGF1 SHA256 "}}}", GOOD},
    {PSS "30{a0{" SHA256 "}a1{30{" MGF1 SHA256 "}}a2{020120}a3{020101}}", GOOD},
    {PSS "30{a0{" SHA256 "}a1{30{" MGF1 SHA256 "}}a3{020101}}", GOOD},
    {PSS "30{a0{" SHA1 "}a1{30{" MGF1 SHA256 "}}}", WEAK},
    {PSS "30{a0{" SHA256 "}a1{30{" MGF1 SHA1 "}}}", WEAK},
    {PSS "30{a0{" MD5 "}a1{30{" MGF1 MD5 "}}}", WEAK},
    {PSS "30{a0{" OTHER "}a1{30{" MGF1 SHA256 "}}}", UNKNOWN},
    {PSS "30{a0{" SHA256 "}a1{30{" MGF1 OTHER "}}}", UNKNOWN},
    {PSS "30{a0{" SHA256 "}a1{" OTHER "}}", UNKNOWN},
    {PSS "30{a0{" OTHER "}a1{30{" MGF1 SHA1 "}}}", WEAK},
    {PSS "30{a0{" OTHER "}}", WEAK},
    {PSS "0500", REFUSED},
    {PSS "30{a1{30{" MGF1 SHA256 "}}a0{" SHA256 "}}", REFUSED},
    {PSS "30{a0{" SHA256 "}a0{" SHA256 "}}", REFUSED},
    {PSS "30{a0{" SHA256 "0500}}", REFUSED},
    {PSS "30{a0{}}", REFUSED},
    {PSS "30{a1{30{" MGF1 "}}}", REFUSED},
    {PSS "30{a1{30{" MGF1 "0500}}}", REFUSED},
    {PSS "30{a1{30{" MGF1 SHA256 SHA256 "}}}", REFUSED},
    {PSS "30{a2{020120 020120}}", REFUSED},
    {PSS "30{a2{04{20}}}", REFUSED},
    {PSS "30{a2{02{0020}}}", REFUSED},
    {PSS "30{a3{020101}0500}", REFUSED},
    {PSS "30{a4{020101}}", REFUSED},
    {PSS "30{a085}", REFUSED},
    {"", REFUSED},
    {"0500", REFUSED},
    {"06{}", REFUSED},
    {"06{2a80}", REFUSED},
    {"06{2a03}0500 0500", REFUSED},
    {"06{2a03}05", REFUSED},
};

static void test_signatures(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(signatures); i++) {
        struct der_text d = {.len = 0};
        enum mr_strength strength = GOOD;
        der_text_add(&d, signatures[i].identifier);
        unsigned char *bytes = der_text_copy(d.bytes, d.len);
        const bool good = mr_algorithm_signature((moor_span){bytes, d.len}, &strength);
        if ((good ? (int)strength : REFUSED) != signatures[i].strength)
            fail_msg("%s: %d", signatures[i].identifier, good ? (int)strength : REFUSED);
        free(bytes);
    }
}

#define RSA_KEY "30{06{" RSA "01}0500}"
#define EC_KEY  "06{2a8648ce3d0201}"
#define P256    "06{2a8648ce3d030107}"
#define POINT   "03{00 04 01 02}"

static const struct {
    const char *spki;
    int key; /* an enum mr_cert_key */
    uint32_t bits;
} keys[] = {
    {RSA_KEY "03{00 30{02{01}02{03}}}", MR_CERT_KEY_RSA, 1},
    {RSA_KEY "03{00 30{02{00ffff}02{010001}}}", MR_CERT_KEY_RSA, 16},
    {RSA_KEY "03{00 30{02{7fff}02{010001}}}", MR_CERT_KEY_RSA, 15},
    {"30{06{" RSA "01}} 03{00 30{02{7f}02{03}}}", MR_CERT_KEY_RSA, 7},
    {"30{" PSS "} 03{00 30{02{7f}02{03}}}", MR_CERT_KEY_RSA_PSS, 7},
    {"30{" PSS "30{}} 03{00 30{02{7f}02{03}}}", MR_CERT_KEY_RSA_PSS, 7},
    {"30{" EC_KEY P256 "}" POINT, MR_CERT_KEY_EC, 256},
    {"30{" EC_KEY "06{2b81040022}}" POINT, MR_CERT_KEY_EC, 384},
    {"30{" EC_KEY "06{2b81040023}}" POINT, MR_CERT_KEY_EC, 521},
    {"30{" EC_KEY "06{2b8104000a}}" POINT, MR_CERT_KEY_EC, 0},
    {"30{" EC_KEY "30{020101}}" POINT, MR_CERT_KEY_EC, 0},
    {"30{" EC_KEY "0500}" POINT, MR_CERT_KEY_EC, 0},
    {"30{06{2b6570}}03{00 0102}", MR_CERT_KEY_ED25519, 0},
    {"30{06{2b6571}}03{00 0102}", MR_CERT_KEY_ED448, 0},
    {"30{06{2b656e}}03{00 0102}", MR_CERT_KEY_OTHER, 0},
    {"30{06{2a8648ce380401}30{}}03{00 0102}", MR_CERT_KEY_OTHER, 0},
    {RSA_KEY "03{00 30{02{00}02{03}}}", REFUSED, 0},
    {RSA_KEY "03{00 30{02{ff}02{03}}}", REFUSED, 0},
    {RSA_KEY "03{00 30{02{0001}02{03}}}", REFUSED, 0},
    {RSA_KEY "03{00 30{02{01}02{00}}}", REFUSED, 0},
    {RSA_KEY "03{00 30{02{01}}}", REFUSED, 0},
    {RSA_KEY "03{00 30{02{01}02{03}0500}}", REFUSED, 0},
    {RSA_KEY "03{00 30{02{01}02{03}}00}", REFUSED, 0},
    {RSA_KEY "03{00}", REFUSED, 0},
    {"30{" EC_KEY "}" POINT, REFUSED, 0},
    {"30{" EC_KEY "06{2a80}}" POINT, REFUSED, 0},
    {"30{" EC_KEY P256 "}03{}", REFUSED, 0},
    {"30{" EC_KEY P256 "}03{01 02}", REFUSED, 0},
    {"30{" EC_KEY P256 "}23{0302 0004}", REFUSED, 0},
    {"30{" EC_KEY P256 "}" POINT "00", REFUSED, 0},
    {"30{" EC_KEY P256 "0500}" POINT, REFUSED, 0},
    {"30{}" POINT, REFUSED, 0},
    {"", REFUSED, 0},
};

static void test_keys(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(keys); i++) {
        struct der_text d = {.len = 0};
        enum mr_cert_key key = MR_CERT_KEY_OTHER;
        uint32_t bits = 0;
        der_text_add(&d, keys[i].spki);
        unsigned char *bytes = der_text_copy(d.bytes, d.len);
        const bool good = mr_algorithm_key((moor_span){bytes, d.len}, &key, &bits);
        if ((good ? (int)key : REFUSED) != keys[i].key || bits != keys[i].bits)
            fail_msg("%s: %d, %u bits", keys[i].spki, good ? (int)key : REFUSED, bits);
        free(bytes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_signatures),
        cmocka_unit_test(test_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
