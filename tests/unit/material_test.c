/* Roots, certificates, keys and pins as operators give them: files, directories, memory, and mistakes. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "tls/material.h"

static struct mr_heap heap;
#define TEMPLATE "/tmp/mooring-material-XXXXXX"
static char directory[64];
static moor_pool_options options;
static struct mr_tls_material material;
static char fault[MR_TLS_FAULT_MAX];

static int setup(void **state)
{
    (void)state;
    memcpy(directory, TEMPLATE, sizeof TEMPLATE);
    moor_pool_options_init(&options);
    return mr_heap_init(&heap, SIZE_MAX, true) == MOOR_OK && mkdtemp(directory) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", directory);
    const bool is_gone = system(command) == 0;
    const size_t left = atomic_load(&heap.used);
    mr_heap_fini(&heap);
    return left == 0 && is_gone ? 0 : -1;
}

static const char *path_of(const char *name)
{
    static char paths[4][256];
    static unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}

static const char *file(const char *name, const char *text)
{
    const char *path = path_of(name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    return path;
}

static void read_good(void)
{
    const moor_err e = mr_tls_material_read(&heap, &options, &material, fault);
    if (e)
        fail_msg("%s: %s", moor_err_name(e), fault);
}

/* Nothing is kept, and the text names what was wrong. */
static void read_bad(const char *what)
{
    const size_t before = atomic_load(&heap.used);
    assert_int_equal(mr_tls_material_read(&heap, &options, &material, fault), MOOR_EINVAL);
    if (!strstr(fault, what))
        fail_msg("\"%s\" is not in \"%s\"", what, fault);
    assert_int_equal(atomic_load(&heap.used), before);
}

static void test_files(void **state)
{
    (void)state;
    options.tls_ca = file("ca", "roots");
    options.tls_cert = file("cert", "mine");
    read_good();
    assert_string_equal(material.roots.base, "roots\n");
    assert_string_equal(material.cert.base, "mine\n");
    assert_string_equal(material.key.base, "mine\n"); /* no key file: it is in the other */
    mr_tls_material_drop(&material);
    options.tls_key = file("key", "secret");
    read_good();
    assert_string_equal(material.key.base, "secret\n");
    mr_tls_material_drop(&material);
}

static void test_directories(void **state)
{
    (void)state;
    options.tls_ca = directory;
    read_bad("no .pem, .crt or .cer file there");
    file("one.pem", "1");
    file("two.crt", "2");
    file("ca.key", "no");
    file("0a1b2c3d.0", "a link by hash in real life");
    read_good();
    assert_int_equal(material.roots.len, 4);
    assert_non_null(strchr(material.roots.base, '1'));
    assert_non_null(strchr(material.roots.base, '2'));
    mr_tls_material_drop(&material);
}

static void test_memory_wins_over_files(void **state)
{
    (void)state;
    options.tls_ca = "/nonexistent";
    options.tls_ca_pem = (moor_span){"roots", 5};
    options.tls_cert_pem = (moor_span){"cert", 4};
    options.tls_key_pem = (moor_span){"key", 3};
    read_good();
    assert_string_equal(material.roots.base, "roots");
    assert_string_equal(material.cert.base, "cert");
    assert_string_equal(material.key.base, "key");
    mr_tls_material_drop(&material);
}

static void test_files_that_cannot_be_used(void **state)
{
    (void)state;
    options.tls_ca = path_of("missing.pem");
    read_bad("missing.pem: No such file or directory");
    options.tls_ca = file("ca", "roots");
    options.tls_cert = directory;
    read_bad(": not a file");
    options.tls_cert = NULL;
    options.tls_key = options.tls_ca;
    read_bad("without a certificate");
    options.tls_key = NULL;
    const char *large = file("large.pem", "x");
    assert_int_equal(truncate(large, (off_t)MR_TLS_FILE_MAX + 1), 0);
    options.tls_ca = large;
    read_bad("larger than 16 MiB");
    file("also.pem", "x");
    options.tls_ca = directory; /* together they are too large as well */
    read_bad("larger than 16 MiB");
}

#define GOOD_PIN "sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="

static void test_pins(void **state)
{
    (void)state;
    options.tls_ca_pem = (moor_span){"roots", 5};
    options.tls_pins = GOOD_PIN "," GOOD_PIN ", " GOOD_PIN;
    read_good();
    assert_int_equal(material.pin_count, 3);
    mr_tls_material_drop(&material);
    static const char *const bad[] = {"sha256/",
                                      "sha256/AAAA",
                                      "sha1/AAAAAAAAAAAAAAAAAAAAAAAAAAA=",
                                      "nonsense",
                                      "sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA!=",
                                      "sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
                                      GOOD_PIN ",x"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        options.tls_pins = bad[i];
        read_bad("expected sha256/");
    }
    options.tls_pins = " , ";
    read_bad("names none");
    char many[(sizeof GOOD_PIN + 1) * (MR_TLS_PINS_MAX + 1)] = "";
    for (int i = 0; i <= MR_TLS_PINS_MAX; i++)
        snprintf(many + strlen(many), sizeof many - strlen(many), "%s,", GOOD_PIN);
    options.tls_pins = many;
    read_bad("more than 32 pins");
}

static void test_what_contradicts_itself(void **state)
{
    (void)state;
    options.tls_insecure = true;
    options.tls_pins = GOOD_PIN;
    read_bad("tls_insecure");
    options.tls_pins = NULL;
    options.tls_ca = "/nonexistent"; /* not looked at */
    read_good();
    mr_tls_material_drop(&material);
    options.tls_version_min = "1.1";
    read_bad("expected 1.2 or 1.3");
}

static void fingerprint(uint8_t out[MR_TLS_HASH_SIZE])
{
    read_good();
    mr_tls_material_fingerprint(&material, out);
    mr_tls_material_drop(&material);
}

static void test_fingerprints(void **state)
{
    (void)state;
    uint8_t seen[8][MR_TLS_HASH_SIZE];
    size_t n = 0;
    options.tls_ca_pem = (moor_span){"rootsx", 5};
    fingerprint(seen[n++]);
    uint8_t again[MR_TLS_HASH_SIZE];
    fingerprint(again);
    assert_memory_equal(again, seen[0], sizeof again);
    options.tls_ca_pem.len = 6;
    fingerprint(seen[n++]);
    options.tls_cert_pem = (moor_span){"c", 1};
    fingerprint(seen[n++]);
    options.tls_key_pem = (moor_span){"k", 1};
    fingerprint(seen[n++]);
    options.tls_pins = GOOD_PIN;
    fingerprint(seen[n++]);
    options.tls_pin_chain = true;
    fingerprint(seen[n++]);
    options.tls_version_min = "1.3";
    fingerprint(seen[n++]);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < i; j++)
            assert_memory_not_equal(seen[i], seen[j], MR_TLS_HASH_SIZE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        T(test_files),
        T(test_directories),
        T(test_memory_wins_over_files),
        T(test_files_that_cannot_be_used),
        T(test_pins),
        T(test_what_contradicts_itself),
        T(test_fingerprints),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
