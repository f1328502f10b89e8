/*
 * A scripted TLS server, and a pool to it whose events are kept. Every test runs once per backend, as with
 * fixture_pool.h.
 */
#ifndef TESTS_SUPPORT_TLS_FIXTURE_H
#define TESTS_SUPPORT_TLS_FIXTURE_H

#include "tests/support/fixture_pool.h"
#include "tests/support/tls_server.h"

/* What TLS_READY told last, and how often what was told. */
struct tls_told {
    int version;
    char cipher[48], group[24], alpn[16], subject[128], issuer[128];
    char why_closed[64]; /* the last conn */
    bool resumed, has_certificate;
    int64_t expires_s;
    unsigned ready, closed, expiring;
};

struct tls_fixture {
    struct fixture f;
    struct tls_server *server;
    uint32_t tickets_max; /* of the pools: none unless a test says so before it begins */
    pthread_mutex_t lock;
    struct tls_told told; /* under lock */
};

/* The fixture's own defaults, and the first P-256 root; events are kept. */
void tls_options(struct tls_fixture *t, moor_pool_options *o);
/* NULL: script and options of above; one shard. */
void tls_begin(struct tls_fixture *t, const struct tls_script *script, const moor_pool_options *o);
/* A runtime and a server, no pool. */
void tls_begin_closed(struct tls_fixture *t, const struct tls_script *script,
                      const moor_runtime_options *ro);
/* A pool in place of the one there is, if any. url NULL: the server's. */
void tls_reopen(struct tls_fixture *t, const char *url, const moor_pool_options *o);
void tls_end(struct tls_fixture *t);
struct tls_told tls_told(struct tls_fixture *t);

/* One GET, all its bytes checked. */
void tls_expect_bytes(struct tls_fixture *t, size_t n);
void tls_expect_get(struct tls_fixture *t, const char *path, size_t n);
/* One POST to /echo, the body given in pieces. */
void tls_expect_echo(struct tls_fixture *t, size_t n);
/* One GET that must fail so; what it said. `path` NULL = /bytes/1000. */
moor_fault tls_expect_fault(struct tls_fixture *t, const char *path, moor_err err);
/* The text says it; case and '_' for ' ' do not matter. */
void tls_assert_says(const moor_fault *fault, const char *words);
bool tls_says(const moor_fault *fault, const char *words);
/* "bad certificate" of 42; NULL: no alert of that number. */
const char *tls_alert_name(int description);

#endif
