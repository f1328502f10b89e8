/*
 * TLS on the command line: the options of get and load, what a handshake came to, what to do about one
 * that failed. Main thread, except that tls_seen_event runs on the shard of the handshake.
 */
#ifndef TOOL_TLS_H
#define TOOL_TLS_H

#include "cli.h"

#include <getopt.h>

/* Texts point into argv. */
struct tls_options {
    const char *ca, *cert, *key, *server_name, *version_min; /* NULL = the pool's default */
    char *pins;                                              /* owned; NULL = none */
    bool pins_chain, is_insecure;
};

enum {
    TLS_OPT_CACERT = 0x1000, /* above every command's own */
    TLS_OPT_CERT,
    TLS_OPT_KEY,
    TLS_OPT_PIN,
    TLS_OPT_PIN_CHAIN,
    TLS_OPT_INSECURE,
    TLS_OPT_SERVER_NAME,
    TLS_OPT_MIN
};

/* clang-format off */
#define TLS_LONG_OPTIONS                                                                           \
    {"cacert", required_argument, NULL, TLS_OPT_CACERT},                                           \
    {"cert", required_argument, NULL, TLS_OPT_CERT},                                               \
    {"key", required_argument, NULL, TLS_OPT_KEY},                                                 \
    {"pin", required_argument, NULL, TLS_OPT_PIN},                                                 \
    {"pin-chain", no_argument, NULL, TLS_OPT_PIN_CHAIN},                                           \
    {"insecure", no_argument, NULL, TLS_OPT_INSECURE},                                             \
    {"server-name", required_argument, NULL, TLS_OPT_SERVER_NAME},                                 \
    {"tls-min", required_argument, NULL, TLS_OPT_MIN}
#define TLS_USAGE                                                                                  \
    "For https URLs:\n"                                                                            \
    "  --cacert FILE|DIR     trust these authorities, PEM, not the system's\n"                     \
    "  --cert FILE           show this certificate, PEM, its intermediates behind it\n"            \
    "  --key FILE            its key, PEM (default: in the file of --cert)\n"                      \
    "  --pin sha256/BASE64   accept this server key only (again, or with commas, for more)\n"      \
    "  --pin-chain           a pin may also be of an authority in the chain\n"                     \
    "  --insecure            verify nothing: whoever is on the way can read and change it all\n"   \
    "  --server-name NAME    ask for, and verify, this name, not the URL's host\n"                 \
    "  --tls-min 1.2|1.3     oldest version (default 1.2)\n"
/* clang-format on */

/* An option of ours, in optarg. False after a complaint. */
bool tls_take_option(struct tls_options *t, int opt);
static inline bool tls_is_option(int opt)
{
    return opt >= TLS_OPT_CACERT && opt <= TLS_OPT_MIN;
}
/* Borrows from t until the pool is open. */
void tls_apply(const struct tls_options *t, moor_pool_options *o);
void tls_free(struct tls_options *t);

/* The last handshake of a pool. */
struct tls_seen {
    moor_tls_info info; /* texts are those below; no certificate */
    char cipher[64], group[32], alpn[32];
    char subject[256], issuer[256];
    uint32_t count; /* handshakes since the last print */
};
/* For moor_pool_options.on_event, with `user` a struct tls_seen. */
void tls_seen_event(void *user, const moor_event *e);
/* To standard error; forgets it. was_reused: the request needed no handshake, which is said instead. */
void tls_seen_print(struct tls_seen *s, const char *url, bool was_reused);
/* Whether the URL's scheme is https. */
bool tls_is_asked(const char *url);

/* What to do about a fault that is MOOR_ETLS. Static text. */
const char *tls_advice(const char *what);
/* Whether it was the server's certificate that was refused. */
bool tls_is_distrust(const char *what);

#endif
