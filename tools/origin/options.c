/*
 * The command line. Pure but for what it prints; runs before any thread.
 * Must never open anything: a wrong option has no effects.
 */
#include "options.h"

#include <getopt.h>
#include <openssl/ssl.h>
#include <stdio.h>

#include "text.h"

static const char usage[] =
    "usage: mooring-origin [options]\n"
    "An HTTP/1.1 and HTTP/2 server for tests and demos. GET / lists its routes.\n"
    "  --port N           port, 0 = a free one (default 0)\n"
    "  --bind ADDR        IPv4, IPv6 or unix:/path (default 127.0.0.1)\n"
    "  --threads N        1 to 64, each with its own listener (default 1)\n"
    "  --idle-timeout MS  close conns idle for so long, 0 = never (default 0)\n"
    "  --max-requests N   close a conn after N requests, 0 = never (default 0)\n"
    "  --echo-port N      also echo raw bytes on this port, 0 = a free one\n"
    "  --no-h2            HTTP/1 only (default: what ALPN picks, h2 first; in clear text what\n"
    "                     the conn begins with)\n"
    "  --help             this text\n"
    "HTTPS, with a certificate and a CA made for this run:\n"
    "  --tls                   speak TLS on the port (not on the echo port)\n"
    "  --tls-ca-out FILE       write the CA's certificate there, PEM, before the ready line\n"
    "  --tls-name NAME         one more DNS name or IP; there are localhost, *.origin.localhost,\n"
    "                          127.0.0.1, ::1 and the address of --bind; again for more\n"
    "  --tls-key-type TYPE     ecdsa (P-256), rsa (2048) or ed25519 (default ecdsa)\n"
    "  --tls-cert FILE         use this chain, PEM, with --tls-key FILE\n"
    "  --tls-client-ca FILE    demand a client certificate that a CA in FILE signed\n"
    "  --tls-min 1.2|1.3       lowest version (default 1.2)\n"
    "  --tls-max 1.2|1.3       highest version (default 1.3)\n"
    "  --tls-groups LIST       key exchange groups, as P-384:X25519\n"
    "  --tls-tickets N         tickets per full handshake, 0 = no resumption (default 2)\n"
    "  --tls-early-data        take up to 16 KB of early data; each ticket once\n"
    "  --tls-allow-replay      with --tls-early-data: tickets any number of times\n"
    "  --tls-handshake-timeout MS  close conns that need longer (default 10000)\n"
    "Prints `listening on http://ADDR:PORT`, or https, when ready; ends on SIGTERM or SIGINT.\n";

enum option_code {
    OPTION_PORT = 256,
    OPTION_BIND,
    OPTION_THREADS,
    OPTION_IDLE_TIMEOUT,
    OPTION_MAX_REQUESTS,
    OPTION_ECHO_PORT,
    OPTION_NO_H2,
    OPTION_HELP,
    OPTION_TLS,
    OPTION_TLS_CA_OUT,
    OPTION_TLS_NAME,
    OPTION_TLS_KEY_TYPE,
    OPTION_TLS_CERT,
    OPTION_TLS_KEY,
    OPTION_TLS_CLIENT_CA,
    OPTION_TLS_MIN,
    OPTION_TLS_MAX,
    OPTION_TLS_GROUPS,
    OPTION_TLS_TICKETS,
    OPTION_TLS_EARLY_DATA,
    OPTION_TLS_ALLOW_REPLAY,
    OPTION_TLS_HANDSHAKE_TIMEOUT,
};

static const struct option names[] = {
    {"port", required_argument, NULL, OPTION_PORT},
    {"bind", required_argument, NULL, OPTION_BIND},
    {"threads", required_argument, NULL, OPTION_THREADS},
    {"idle-timeout", required_argument, NULL, OPTION_IDLE_TIMEOUT},
    {"max-requests", required_argument, NULL, OPTION_MAX_REQUESTS},
    {"echo-port", required_argument, NULL, OPTION_ECHO_PORT},
    {"no-h2", no_argument, NULL, OPTION_NO_H2},
    {"help", no_argument, NULL, OPTION_HELP},
    {"tls", no_argument, NULL, OPTION_TLS},
    {"tls-ca-out", required_argument, NULL, OPTION_TLS_CA_OUT},
    {"tls-name", required_argument, NULL, OPTION_TLS_NAME},
    {"tls-key-type", required_argument, NULL, OPTION_TLS_KEY_TYPE},
    {"tls-cert", required_argument, NULL, OPTION_TLS_CERT},
    {"tls-key", required_argument, NULL, OPTION_TLS_KEY},
    {"tls-client-ca", required_argument, NULL, OPTION_TLS_CLIENT_CA},
    {"tls-min", required_argument, NULL, OPTION_TLS_MIN},
    {"tls-max", required_argument, NULL, OPTION_TLS_MAX},
    {"tls-groups", required_argument, NULL, OPTION_TLS_GROUPS},
    {"tls-tickets", required_argument, NULL, OPTION_TLS_TICKETS},
    {"tls-early-data", no_argument, NULL, OPTION_TLS_EARLY_DATA},
    {"tls-allow-replay", no_argument, NULL, OPTION_TLS_ALLOW_REPLAY},
    {"tls-handshake-timeout", required_argument, NULL, OPTION_TLS_HANDSHAKE_TIMEOUT},
    {NULL, 0, NULL, 0},
};

static bool read_option(int code, struct options *o);
static bool read_tls_option(int code, struct tls_options *o);
static bool make_sense(const struct tls_options *o, bool has_tls_options);

int options_read(int argc, char **argv, struct options *o)
{
    *o = (struct options){
        .bind = "127.0.0.1",
        .threads = 1,
        .echo_port = -1,
        .speaks_h2 = true,
        .tls = {.version_min = TLS1_2_VERSION,
                .version_max = TLS1_3_VERSION,
                .tickets = 2,
                .handshake_timeout_ms = 10000},
    };
    bool is_valid = true, has_tls_options = false;
    for (int code; is_valid && (code = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        if (code == OPTION_HELP) {
            fputs(usage, stdout);
            return 0;
        }
        has_tls_options = has_tls_options || code > OPTION_TLS;
        is_valid = code >= OPTION_TLS ? read_tls_option(code, &o->tls) : read_option(code, o);
    }
    if (is_valid && optind == argc && make_sense(&o->tls, has_tls_options))
        return -1;
    fputs("try mooring-origin --help\n", stderr);
    return 2;
}

static bool option_number(const char *name, uint64_t min, uint64_t max, uint64_t *out_value)
{
    if (parse_u64((struct span){optarg, strlen(optarg)}, max, out_value) && *out_value >= min)
        return true;
    fprintf(stderr, "mooring-origin: --%s %s: not a number from %llu to %llu\n", name, optarg,
            (unsigned long long)min, (unsigned long long)max);
    return false;
}

static bool read_option(int code, struct options *o)
{
    uint64_t n = 0;
    bool is_valid = true;
    switch (code) {
    case OPTION_PORT:
        is_valid = option_number("port", 0, 65535, &n);
        o->port = (unsigned)n;
        break;
    case OPTION_BIND:
        o->bind = optarg;
        break;
    case OPTION_THREADS:
        is_valid = option_number("threads", 1, THREADS_MAX, &n);
        o->threads = (unsigned)n;
        break;
    case OPTION_IDLE_TIMEOUT:
        is_valid = option_number("idle-timeout", 0, UINT32_MAX, &n);
        o->idle_timeout_ms = (uint32_t)n;
        break;
    case OPTION_MAX_REQUESTS:
        is_valid = option_number("max-requests", 0, UINT32_MAX, &n);
        o->requests_per_conn_max = n;
        break;
    case OPTION_ECHO_PORT:
        is_valid = option_number("echo-port", 0, 65535, &n);
        o->echo_port = (int)n;
        break;
    case OPTION_NO_H2:
        o->speaks_h2 = false;
        break;
    default:
        is_valid = false;
    }
    return is_valid;
}

/* The index of optarg in a NULL-terminated list, or -1 after a complaint. */
static int option_choice(const char *name, const char *const *choices)
{
    for (int i = 0; choices[i]; i++)
        if (strcmp(optarg, choices[i]) == 0)
            return i;
    fprintf(stderr, "mooring-origin: --%s %s: not one of", name, optarg);
    for (int i = 0; choices[i]; i++)
        fprintf(stderr, " %s", choices[i]);
    fputs("\n", stderr);
    return -1;
}

static bool option_version(const char *name, int *out_version)
{
    static const char *const choices[] = {"1.2", "1.3", NULL};
    const int i = option_choice(name, choices);
    *out_version = i == 0 ? TLS1_2_VERSION : TLS1_3_VERSION;
    return i >= 0;
}

static bool option_key_type(struct tls_options *o)
{
    static const char *const choices[] = {"ecdsa", "rsa", "ed25519", NULL};
    static const enum tls_key_type types[] = {TLS_KEY_ECDSA, TLS_KEY_RSA, TLS_KEY_ED25519};
    const int i = option_choice("tls-key-type", choices);
    if (i >= 0)
        o->key_type = types[i];
    return i >= 0;
}

static bool read_tls_option(int code, struct tls_options *o)
{
    uint64_t n = 0;
    bool is_valid = true;
    switch (code) {
    case OPTION_TLS:
        o->is_on = true;
        break;
    case OPTION_TLS_CA_OUT:
        o->ca_out = optarg;
        break;
    case OPTION_TLS_NAME:
        is_valid = o->name_count < TLS_NAMES_MAX;
        if (is_valid)
            o->names[o->name_count++] = optarg;
        else
            fprintf(stderr, "mooring-origin: more than %d names\n", TLS_NAMES_MAX);
        break;
    case OPTION_TLS_KEY_TYPE:
        is_valid = option_key_type(o);
        break;
    case OPTION_TLS_CERT:
        o->cert = optarg;
        break;
    case OPTION_TLS_KEY:
        o->key = optarg;
        break;
    case OPTION_TLS_CLIENT_CA:
        o->client_ca = optarg;
        break;
    case OPTION_TLS_MIN:
        is_valid = option_version("tls-min", &o->version_min);
        break;
    case OPTION_TLS_MAX:
        is_valid = option_version("tls-max", &o->version_max);
        break;
    case OPTION_TLS_GROUPS:
        o->groups = optarg;
        break;
    case OPTION_TLS_TICKETS:
        is_valid = option_number("tls-tickets", 0, TLS_TICKETS_MAX, &n);
        o->tickets = (unsigned)n;
        break;
    case OPTION_TLS_EARLY_DATA:
        o->takes_early_data = true;
        break;
    case OPTION_TLS_ALLOW_REPLAY:
        o->allows_replay = true;
        break;
    default:
        is_valid = option_number("tls-handshake-timeout", 1, UINT32_MAX, &n);
        o->handshake_timeout_ms = (uint32_t)n;
    }
    return is_valid;
}

static bool make_sense(const struct tls_options *o, bool has_tls_options)
{
    const char *what = NULL;
    if (has_tls_options && !o->is_on)
        what = "--tls-... without --tls";
    else if (o->version_min > o->version_max)
        what = "--tls-min above --tls-max";
    else if (!o->cert != !o->key)
        what = "--tls-cert and --tls-key need each other";
    else if (o->cert && (o->ca_out || o->name_count))
        what = "--tls-ca-out and --tls-name are for a throw-away certificate, not for --tls-cert";
    else if (o->allows_replay && !o->takes_early_data)
        what = "--tls-allow-replay without --tls-early-data";
    if (what)
        fprintf(stderr, "mooring-origin: %s\n", what);
    return !what;
}
