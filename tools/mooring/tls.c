/*
 * TLS on the command line: options into a pool's, handshakes into lines, failures into advice.
 * Main thread; get's shard is on it, too. Must not read a file: the library does, and says what is
 * wrong with it.
 */
#include "tls.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

/* ---- options ---- */

static bool add_pins(struct tls_options *t, const char *more)
{
    const size_t len = t->pins ? strlen(t->pins) : 0;
    const size_t cap = len + strlen(more) + 2;
    char *pins = realloc(t->pins, cap);
    if (!pins) {
        cli_complain("out of memory");
        return false;
    }
    snprintf(pins + len, cap - len, "%s%s", len ? "," : "", more);
    t->pins = pins;
    return true;
}

/* An empty value, as an unset variable of a shell gives it, would ask for the library's default: trust
 * in all the system's authorities, no pin. */
static bool take_text(const char *option, const char **out)
{
    if (*optarg) {
        *out = optarg;
        return true;
    }
    cli_misused("%s is empty", option);
    return false;
}

bool tls_take_option(struct tls_options *t, int opt)
{
    const char *pin;
    switch (opt) {
    case TLS_OPT_CACERT:
        return take_text("--cacert", &t->ca);
    case TLS_OPT_CERT:
        return take_text("--cert", &t->cert);
    case TLS_OPT_KEY:
        return take_text("--key", &t->key);
    case TLS_OPT_PIN:
        return take_text("--pin", &pin) && add_pins(t, pin);
    case TLS_OPT_PIN_CHAIN:
        return t->pins_chain = true;
    case TLS_OPT_INSECURE:
        return t->is_insecure = true;
    case TLS_OPT_SERVER_NAME:
        return take_text("--server-name", &t->server_name);
    default:
        t->version_min = optarg;
        if (strcmp(optarg, "1.2") == 0 || strcmp(optarg, "1.3") == 0)
            return true;
        cli_misused("--tls-min %s is neither 1.2 nor 1.3", optarg);
        return false;
    }
}

void tls_apply(const struct tls_options *t, moor_pool_options *o)
{
    o->tls_ca = t->ca;
    o->tls_cert = t->cert;
    o->tls_key = t->key;
    o->tls_pins = t->pins;
    o->tls_pin_chain = t->pins_chain;
    o->tls_insecure = t->is_insecure;
    o->tls_server_name = t->server_name;
    if (t->version_min)
        o->tls_version_min = t->version_min;
}

bool tls_is_asked(const char *url)
{
    static const char scheme[] = "https:";
    return strncasecmp(url, scheme, sizeof scheme - 1) == 0;
}

void tls_free(struct tls_options *t)
{
    free(t->pins);
    *t = (struct tls_options){0};
}

/* ---- handshakes ---- */

static const char *copy(char *to, size_t cap, const char *from)
{
    snprintf(to, cap, "%s", from);
    return to;
}

void tls_seen_event(void *user, const moor_event *e)
{
    struct tls_seen *s = user;
    if (e->type != MOOR_EVENT_TLS_READY)
        return;
    s->count++;
    s->info = *e->tls;
    s->info.certificate = (moor_span){NULL, 0};
    s->info.cipher = copy(s->cipher, sizeof s->cipher, e->tls->cipher);
    s->info.group = copy(s->group, sizeof s->group, e->tls->group);
    s->info.alpn = copy(s->alpn, sizeof s->alpn, e->tls->alpn);
    s->info.subject = copy(s->subject, sizeof s->subject, e->tls->subject);
    s->info.issuer = copy(s->issuer, sizeof s->issuer, e->tls->issuer);
}

static void print_line(const char *name, const char *value)
{
    fprintf(stderr, "*   %-12s %s\n", name, *value ? value : "-");
}

/* Rounded down, so that 0 days means less than one. */
static void print_expiry(int64_t expires_s)
{
    enum { DAY_S = 86400 };
    const time_t at = (time_t)expires_s;
    struct tm parts;
    char date[64], text[128];
    if (!gmtime_r(&at, &parts) || !strftime(date, sizeof date, "%Y-%m-%d %H:%M:%S UTC", &parts))
        return;
    const int64_t left = expires_s - (int64_t)time(NULL);
    if (left < 0)
        snprintf(text, sizeof text, "%s, %lld days ago", date, (long long)(-left / DAY_S));
    else
        snprintf(text, sizeof text, "%s, in %lld days", date, (long long)(left / DAY_S));
    print_line("valid until", text);
}

void tls_seen_print(struct tls_seen *s, const char *url, bool was_reused)
{
    const moor_tls_info *i = &s->info;
    if (s->count == 0) {
        if (was_reused)
            fprintf(stderr, "* TLS of %s: the connection of an earlier request\n", url);
        return;
    }
    char took[24];
    fprintf(stderr, "* TLS of %s:\n", url);
    print_line("version", i->version == 12 ? "1.2" : "1.3");
    print_line("cipher", i->cipher);
    print_line("group", i->group);
    print_line("ALPN", i->alpn);
    print_line("resumed", i->resumed ? "yes: the certificate was verified earlier" : "no");
    print_line("handshake", cli_time(i->handshake, took, sizeof took));
    print_line("stapled", i->stapled ? "yes: a good OCSP response" : "no");
    if (*i->subject || *i->issuer) {
        print_line("subject", i->subject);
        print_line("issuer", i->issuer);
    }
    if (i->expires_s)
        print_expiry(i->expires_s);
    if (s->count > 1)
        fprintf(stderr, "*   the last of %u handshakes\n", s->count);
    s->count = 0;
}

/* ---- failures ---- */

bool tls_is_distrust(const char *what)
{
    static const char step[] = "verify the certificate";
    return what && strncmp(what, step, sizeof step - 1) == 0;
}

const char *tls_advice(const char *what)
{
    /* Part of moor_fault.what, in which the library says what happened but not what a command line can
     * do about it. The first that fits counts. */
    static const struct {
        const char *part, *advice;
    } table[] = {
        {"no trusted authority", "if its authority is a private one, give its certificate with "
                                 "--cacert"},
        {"self-signed", "if it is the right one, give it with --cacert"},
        {"not for this host", "use the name it is for, or give that with --server-name"},
        {"not pinned", "either the server has a new key, to be given with --pin, or this is not "
                       "the server"},
        {"expired", "the server needs a new one, unless this machine's clock is wrong"},
        {"not valid yet", "check this machine's clock"},
        {"(ours)", "the server refuses the certificate of --cert"},
        {"of our certificate", "the server does not trust the authority of --cert; its file should "
                               "hold the intermediates, too"},
        {"certificate_required", "give one with --cert and --key"},
        {"handshake_failure", "if the server wants a certificate, give one with --cert and --key"},
        {"protocol_version", "the server speaks other versions; see --tls-min"},
        {"no version in common", "the server speaks other versions; see --tls-min"},
        {"unrecognized_name", "the server knows another name; see --server-name"},
        {"does not speak TLS", "if that is meant to be so, use http://"},
        {"closed the connection in the TLS",
         "check the port; the server may also want another --server-name"},
    };
    for (size_t i = 0; what && i < sizeof table / sizeof *table; i++)
        if (strstr(what, table[i].part))
            return table[i].advice;
    return tls_is_distrust(what) ? "the server needs a better one"
                                 : "MOORING_LOG=info shows the TLS library's words";
}
