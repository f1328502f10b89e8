/*
 * mooring get: URLs one after another through one open pool, bodies to standard output as they
 * come. One thread, which adopts the shard: a chunk is written and returned before more is read, so
 * a slow reader of our output slows the server down, and nothing is ever kept whole.
 */
#include "commands.h"

#include "cli.h"
#include "source.h"
#include "tls.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { URL_CAP = 256, LINE_CAP = 512 };

struct get_options {
    struct header_list headers;
    const char *method;   /* NULL = GET, or POST with data */
    const char *data;     /* NULL = none */
    const char *out_path; /* NULL = standard output */
    moor_ms timeout_ms;
    moor_ms connect_timeout_ms;
    const char *http_version; /* NULL = as the pool does by itself */
    bool prints_head, is_verbose, is_idempotent, expects_continue, fails_on_status;
    bool prints_tls;
    struct tls_options tls;
};

struct output {
    const char *path; /* NULL = standard output */
    int fd;           /* -1 = the file is not open yet */
    int failed_errno;
};

struct transfer {
    const struct get_options *options;
    struct output *output; /* shared by all URLs */
    struct tls_seen *tls;  /* likewise */
    struct source source;
    moor_op op;
    char url[URL_CAP]; /* masked, for what is printed */
    int status;
    int exit_code;
    bool is_done;
};

static const char usage[] =
    "usage: mooring get [options] URL...\n"
    "Writes the bodies to standard output, in order, as they arrive. Several URLs share "
    "connections.\n"
    "  -i                    write each response's head, too\n"
    "  -v                    response heads, times and connection reuse on standard error\n"
    "  -o FILE               write to FILE; it is not touched before a response is there\n"
    "  -H 'Name: value'      add a header (again for more)\n"
    "  -d DATA               send DATA as the body, with POST\n"
    "  -d @FILE, -d @-       send a file or standard input, streamed\n"
    "  -X METHOD             use this method\n"
    "  --timeout MS          for each whole request (also 500ms, 3s, 2m; default: none)\n"
    "  --connect-timeout MS  for getting a connection (default: MOORING_ACQUIRE_TIMEOUT_MS)\n"
    "  --expect-continue     wait for \"100 Continue\" before the body\n"
    "  --http2               HTTP/2 only, in clear text with prior knowledge\n"
    "  --http1.1             HTTP/1.1 only (default: what the server picks, under TLS)\n"
    "  --idempotent          the request may be sent again if a connection dies\n"
    "  --fail                a status of 400 or more is a failure: no body, exit 22\n"
    "  --help                this text\n" TLS_USAGE
    "  --tls-info            what the handshake came to, on standard error after the response\n"
    "Exit status, of the first URL that failed:\n"
    "  0 all went well            1 another failure       2 wrong usage, URL or variable\n"
    "  6 name did not resolve     7 could not connect    22 status >= 400, with --fail\n"
    " 23 cannot write output     26 cannot read -d @FILE 27 memory limit reached\n"
    " 28 timeout                 35 failure of TLS         60 certificate refused\n"
    " 56 the peer reset, or broke the protocol\n"
    "MOORING_* and MOORING_POOL_GET_* tune it: see mooring options.\n";

/* ---- output ---- */

static bool write_all(struct output *o, const void *bytes, size_t len)
{
    if (o->failed_errno)
        return false;
    if (o->fd < 0)
        o->fd = open(o->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    const char *at = bytes;
    while (o->fd >= 0 && len > 0) {
        const ssize_t n = write(o->fd, at, len);
        if (n >= 0) {
            at += n;
            len -= (size_t)n;
            continue;
        }
        if (errno == EAGAIN) {
            /* Somebody made our standard output non-blocking; it is not ours to change. */
            struct pollfd writable = {.fd = o->fd, .events = POLLOUT};
            (void)poll(&writable, 1, -1);
        } else if (errno != EINTR) {
            break;
        }
    }
    if (o->fd < 0 || len > 0)
        o->failed_errno = errno;
    return !o->failed_errno;
}

/* ---- the response ---- */

static bool hides_body(const struct transfer *t)
{
    return t->options->fails_on_status && t->status >= 400;
}

static void on_head(void *user, const moor_http_head *h)
{
    struct transfer *t = user;
    t->status = h->status;
    char line[64];
    const int len = snprintf(line, sizeof line, "%s %d ", cli_http_version(h->version), h->status);
    if (t->options->is_verbose) {
        fprintf(stderr, "< %s%.*s\n", line, (int)h->reason.len, (const char *)h->reason.base);
        for (size_t i = 0; i < h->header_count; i++)
            fprintf(stderr, "< %.*s: %.*s\n", (int)h->headers[i].name.len,
                    (const char *)h->headers[i].name.base, (int)h->headers[i].value.len,
                    (const char *)h->headers[i].value.base);
    }
    if (hides_body(t)) {
        /* Nobody will read it. Cancelling returns the connection at once if the rest is short. */
        moor_cancel(t->op);
        return;
    }
    struct output *o = t->output;
    write_all(o, NULL, 0);
    if (!t->options->prints_head)
        return;
    write_all(o, line, (size_t)len);
    write_all(o, h->reason.base, h->reason.len);
    for (size_t i = 0; i < h->header_count; i++) {
        write_all(o, "\r\n", 2);
        write_all(o, h->headers[i].name.base, h->headers[i].name.len);
        write_all(o, ": ", 2);
        write_all(o, h->headers[i].value.base, h->headers[i].value.len);
    }
    write_all(o, "\r\n\r\n", 4);
}

static void on_chunk(void *user, moor_chunk c)
{
    struct transfer *t = user;
    if (!hides_body(t) && !write_all(t->output, c.bytes.base, c.bytes.len))
        moor_cancel(t->op);
    moor_chunk_return(c);
}

static moor_body_more next_piece(void *user, moor_piece *out)
{
    struct transfer *t = user;
    return source_next(&t->source, out);
}

static void print_times(const struct transfer *t, const moor_http_done *d)
{
    char waited[24], first[24], total[24];
    fprintf(stderr,
            "* %s: waited %s for a %s connection, first byte %s, total %s, "
            "%llu bytes up, %llu down, %u replays\n",
            t->url, cli_time(d->waited, waited, sizeof waited), d->reused ? "reused" : "new",
            d->first_byte ? cli_time(d->first_byte, first, sizeof first) : "never",
            cli_time(d->total, total, sizeof total), (unsigned long long)d->bytes_up,
            (unsigned long long)d->bytes_down, d->replays);
}

/* What failed on our side explains a cancelled request better than "canceled" does. */
static int complain_of_end(const struct transfer *t, const moor_fault *fault, const moor_why *why)
{
    const struct source *s = &t->source;
    char line[LINE_CAP];
    if (t->output->failed_errno) {
        cli_complain("cannot write %s: %s", t->output->path ? t->output->path : "standard output",
                     strerror(t->output->failed_errno));
        return EXIT_WRITE;
    }
    if (s->failed_errno || s->was_short) {
        cli_complain("cannot read %s: %s", s->path,
                     s->was_short ? "it became shorter" : strerror(s->failed_errno));
        return EXIT_READ;
    }
    if (hides_body(t) && (fault->err == MOOR_OK || fault->err == MOOR_ECANCELED)) {
        cli_complain("%s: the server answered %d; without --fail its body is shown", t->url,
                     t->status);
        return EXIT_HTTP_STATUS;
    }
    cli_complain("%s: %s", t->url, cli_fault_line(fault, why, line, sizeof line));
    return cli_exit_code(fault->err, fault->what, why);
}

static void on_done(void *user, const moor_http_done *d)
{
    struct transfer *t = user;
    t->is_done = true;
    if (t->options->is_verbose)
        print_times(t, d);
    if (t->options->prints_tls && tls_is_asked(t->url))
        tls_seen_print(t->tls, t->url, d->reused);
    const bool is_good = d->fault.err == MOOR_OK && !t->output->failed_errno && !hides_body(t);
    t->exit_code = is_good ? EXIT_OK : complain_of_end(t, &d->fault, d->why);
}

static const moor_http_handlers handlers = {
    .size = sizeof handlers,
    .on_head = on_head,
    .on_chunk = on_chunk,
    .on_done = on_done,
};

/* ---- one URL ---- */

/* Asks what there is to wait for only after the step that may have ended the request. */
static moor_err turn(struct transfer *t, moor_shard *shard)
{
    struct pollfd fds[2] = {
        {.fd = moor_shard_fd(shard), .events = POLLIN},
        {.fd = t->source.is_awaited ? t->source.fd : -1, .events = POLLIN},
    };
    const moor_ms timeout = moor_shard_timeout(shard);
    if (poll(fds, 2, timeout > INT_MAX ? INT_MAX : (int)timeout) > 0 && fds[1].revents)
        moor_body_resume(t->op);
    return moor_shard_step(shard, 0);
}

static moor_err send_request(struct transfer *t, moor_pool *pool, const char *url)
{
    const struct get_options *o = t->options;
    moor_http_request r;
    moor_http_request_init(&r);
    r.url = url;
    r.method = o->method ? o->method : (o->data ? "POST" : NULL);
    r.headers = o->headers.items;
    r.header_count = o->headers.count;
    r.idempotent = o->is_idempotent;
    r.expect_continue = o->expects_continue;
    r.body = t->source.text;
    if (t->source.fd >= 0) {
        r.body_cb = next_piece;
        r.body_length = t->source.length;
    }
    if (o->timeout_ms)
        r.timeout_ms = o->timeout_ms;
    if (o->connect_timeout_ms)
        r.connect_timeout_ms = o->connect_timeout_ms;
    return moor_http_send(pool, &r, &handlers, t, &t->op);
}

static int fetch(const struct get_options *o, struct output *output, struct tls_seen *tls,
                 moor_shard *shard, moor_pool *pool, const char *url)
{
    struct transfer t = {.options = o, .output = output, .tls = tls, .source.fd = -1};
    cli_mask_url(url, t.url, sizeof t.url);
    if (o->data && !source_open(&t.source, o->data))
        return EXIT_READ;
    moor_err e = send_request(&t, pool, url);
    if (e == MOOR_OK)
        while (!t.is_done && e == MOOR_OK)
            e = turn(&t, shard);
    if (e != MOOR_OK) {
        const moor_fault fault = {.err = e};
        t.exit_code = complain_of_end(&t, &fault, NULL);
    }
    source_close(&t.source);
    return t.exit_code;
}

static bool is_h2c(char **urls, int count)
{
    for (int i = 0; i < count; i++)
        if (!strncasecmp(urls[i], "h2c:", 4))
            return true;
    return false;
}

static int open_pool(const struct get_options *o, moor_runtime *runtime, struct tls_seen *tls,
                     moor_pool **out_pool)
{
    moor_pool_options p;
    moor_pool_options_init(&p);
    p.name = "get";
    p.conns_min_idle = 0;
    if (o->http_version)
        p.http_version = o->http_version;
    tls_apply(&o->tls, &p);
    if (o->prints_tls) {
        p.on_event = tls_seen_event;
        p.event_user = tls;
    }
    return cli_pool_open(runtime, NULL, &p, out_pool);
}

static int fetch_all(const struct get_options *o, char **urls, int count)
{
    moor_runtime *runtime = NULL;
    moor_shard *shard = NULL;
    moor_pool *pool = NULL;
    int code = cli_runtime_create(0, o->is_verbose, &runtime);
    if (code != EXIT_OK)
        return code;
    const moor_err e = moor_shard_adopt(runtime, &shard);
    if (e != MOOR_OK) {
        cli_complain("no loop on this machine: %s", moor_err_text(e));
        code = cli_exit_code(e, NULL, NULL);
    }
    struct tls_seen tls = {0};
    if (code == EXIT_OK)
        code = open_pool(o, runtime, &tls, &pool);
    if (code == EXIT_OK && o->is_verbose)
        fprintf(stderr, "* %s\n", moor_runtime_backend(runtime));
    struct output output = {.path = o->out_path, .fd = o->out_path ? -1 : STDOUT_FILENO};
    for (int i = 0; pool && i < count && !output.failed_errno; i++) {
        const int one = fetch(o, &output, &tls, shard, pool, urls[i]);
        code = code == EXIT_OK ? one : code;
    }
    if (o->out_path && output.fd >= 0 && close(output.fd) < 0 && code == EXIT_OK) {
        cli_complain("cannot write %s: %s", o->out_path, strerror(errno));
        code = EXIT_WRITE;
    }
    cli_runtime_close(NULL, pool);
    moor_shard_leave(shard);
    cli_runtime_close(runtime, NULL);
    return code;
}

/* ---- the command line ---- */

enum {
    OPT_TIMEOUT = 256,
    OPT_CONNECT,
    OPT_EXPECT,
    OPT_IDEMPOTENT,
    OPT_HTTP2,
    OPT_HTTP11,
    OPT_FAIL,
    OPT_TLS_INFO,
    OPT_HELP
};

static const struct option long_options[] = {
    {"timeout", required_argument, NULL, OPT_TIMEOUT},
    {"connect-timeout", required_argument, NULL, OPT_CONNECT},
    {"expect-continue", no_argument, NULL, OPT_EXPECT},
    {"idempotent", no_argument, NULL, OPT_IDEMPOTENT},
    {"http2", no_argument, NULL, OPT_HTTP2},
    {"http1.1", no_argument, NULL, OPT_HTTP11},
    {"fail", no_argument, NULL, OPT_FAIL},
    {"tls-info", no_argument, NULL, OPT_TLS_INFO},
    TLS_LONG_OPTIONS,
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

/* Returns false after a complaint. */
static bool take_option(struct get_options *o, int opt)
{
    switch (opt) {
    case 'i':
        o->prints_head = true;
        return true;
    case 'v':
        o->is_verbose = true;
        return true;
    case 'o':
        o->out_path = optarg;
        return true;
    case 'H':
        return cli_header_add(&o->headers, optarg);
    case 'd':
        o->data = optarg;
        return true;
    case 'X':
        o->method = optarg;
        return true;
    case OPT_TIMEOUT:
        return cli_duration("--timeout", optarg, &o->timeout_ms);
    case OPT_CONNECT:
        return cli_duration("--connect-timeout", optarg, &o->connect_timeout_ms);
    case OPT_EXPECT:
        return o->expects_continue = true;
    case OPT_HTTP2:
    case OPT_HTTP11:
        o->http_version = opt == OPT_HTTP2 ? "2" : "1.1";
        return true;
    case OPT_IDEMPOTENT:
        return o->is_idempotent = true;
    case OPT_FAIL:
        return o->fails_on_status = true;
    case OPT_TLS_INFO:
        return o->prints_tls = true;
    default:
        if (tls_is_option(opt))
            return tls_take_option(&o->tls, opt);
        cli_misused("unknown option, or one without its value");
        return false;
    }
}

/* Many servers refuse a request without them. */
static bool add_usual_headers(struct get_options *o)
{
    return (cli_header_has(&o->headers, "User-Agent") ||
            cli_header_add(&o->headers, "User-Agent: mooring")) &&
           (cli_header_has(&o->headers, "Accept") || cli_header_add(&o->headers, "Accept: */*"));
}

int get_main(int argc, char **argv)
{
    struct get_options o = {0};
    int code = -1;
    opterr = 0;
    for (int opt;
         code < 0 && (opt = getopt_long(argc, argv, "ivo:H:d:X:", long_options, NULL)) != -1;) {
        if (opt == OPT_HELP) {
            fputs(usage, stdout);
            code = EXIT_OK;
        } else if (!take_option(&o, opt)) {
            code = EXIT_USAGE;
        }
    }
    if (code < 0 && optind == argc)
        code = cli_misused("no URL");
    if (code < 0 && o.data && strcmp(o.data, "@-") == 0 && argc - optind > 1)
        code = cli_misused("standard input can be sent to one URL only");
    if (code < 0 && !o.http_version && is_h2c(argv + optind, argc - optind))
        o.http_version = "2";
    if (code < 0 && !add_usual_headers(&o))
        code = EXIT_MEMORY;
    if (code < 0) {
        /* A reader of our output that goes away is an error we report, not a death. */
        signal(SIGPIPE, SIG_IGN);
        code = fetch_all(&o, argv + optind, argc - optind);
    }
    cli_header_free(&o.headers);
    tls_free(&o.tls);
    return code;
}
