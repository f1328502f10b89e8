/*
 * URLs, strictly: the parts of RFC 3986 a connection pool needs, and an error that says what and
 * where. Pure; any thread.
 */
#ifndef MR_BASE_URL_H
#define MR_BASE_URL_H

#include <mooring/error.h>

/* scheme, default port (0 = the URL must give one), is HTTP-like (an empty path is "/"), is under
 * TLS */
#define MR_URL_SCHEMES(X)                                                                          \
    X(HTTP, "http", 80, true, false)                                                               \
    X(HTTPS, "https", 443, true, true)                                                             \
    X(H2C, "h2c", 80, true, false)                                                                 \
    X(WS, "ws", 80, true, false)                                                                   \
    X(WSS, "wss", 443, true, true)                                                                 \
    X(TCP, "tcp", 0, false, false)                                                                 \
    X(TLS, "tls", 0, false, true)                                                                  \
    X(UNIX, "unix", 0, false, false)                                                               \
    X(REDIS, "redis", 6379, false, false)                                                          \
    X(POSTGRES, "postgres", 5432, false, false)                                                    \
    X(MYSQL, "mysql", 3306, false, false)                                                          \
    X(SSH, "ssh", 22, false, false)                                                                \
    X(DRIVER, "", 0, false, false) /* of mr_url_parse_driver: whatever the text says */

enum mr_url_scheme {
#define X(name, ...) MR_URL_##name,
    MR_URL_SCHEMES(X)
#undef X
        MR_URL_SCHEME_COUNT
};

enum mr_url_host_kind { MR_URL_NAME, MR_URL_IPV4, MR_URL_IPV6, MR_URL_PATH };

/* Limits: a URL comes from the program, but a program may have it from a peer. */
#define MR_URL_MAX          8192
#define MR_URL_HOST_MAX     253 /* RFC 1035, without the final dot */
#define MR_URL_LABEL_MAX    63
#define MR_URL_USER_MAX     255
#define MR_URL_PASSWORD_MAX 1024
#define MR_URL_PATH_MAX     107 /* sun_path without its NUL */

/* Bytes of storage that always suffice for a URL of `len` bytes: parts are copied, each with a NUL.
 */
#define MR_URL_STORAGE(len) ((len) + 8)

/* Spans point into the caller's storage (target "/" may be static) and a NUL follows each. */
struct mr_url {
    enum mr_url_scheme scheme;
    enum mr_url_host_kind host_kind;
    uint16_t port; /* never 0, but for unix */
    bool port_given;
    bool has_userinfo; /* else user and password are empty */
    bool has_password;
    moor_span user;     /* percent-decoded: may hold any byte but NUL */
    moor_span password; /* the same; secret: print URLs with mr_url_masked only */
    moor_span host; /* lower case; IPv6 without brackets; unix: the socket's path, decoded. A final
                       dot is kept: it tells the resolver not to search */
    moor_span target; /* path and query, still encoded; no fragment. "/" or "/?q" if an HTTP-like
                         URL has no path; empty for others without one */
};

struct mr_url_fault {
    const char *what; /* static text */
    size_t at; /* offset of the offending byte in the URL; its length = something is missing */
};

/*
 * EINVAL (malformed), ENOSYS (unknown scheme), ETOOBIG (a limit above); out_fault (may be NULL)
 * says more. storage: at least MR_URL_STORAGE(url.len) bytes. *out only on success; storage may be
 * scribbled on.
 */
MOOR_NODISCARD moor_err mr_url_parse(moor_span url, char *storage, struct mr_url *out,
                                     struct mr_url_fault *out_fault);

/*
 * A URL whose scheme is a driver's: any scheme, `port` where it gives none (0 = it must), and a host that
 * begins with %2F is the path of a socket or its directory.
 */
MOOR_NODISCARD moor_err mr_url_parse_driver(moor_span url, uint16_t port, char *storage,
                                            struct mr_url *out, struct mr_url_fault *out_fault);

const char *mr_url_scheme_name(enum mr_url_scheme s);
bool mr_url_scheme_is_tls(enum mr_url_scheme s);
bool mr_url_scheme_is_http(enum mr_url_scheme s);

/*
 * %XX to bytes, strictly: a % without two hexadecimal digits and %00 are refused. `out` needs
 * in.len bytes, may be in.base. Returns false and the offset of the offending % in *out_at;
 * *out_len on success.
 */
bool mr_percent_decode(moor_span in, char *out, size_t *out_len, size_t *out_at);

/*
 * The URL fit for logs, whether it parses or not: what stands for a password is "***", what is not
 * printable is "?". Cut to fit. Returns buf.
 */
const char *mr_url_masked(moor_span url, char *buf, size_t cap);

#endif
