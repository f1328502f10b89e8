/*
 * An HTTPS/1.1 server scripted by a test: OpenSSL between memory BIOs, so that the script decides which
 * bytes leave and when. Threads of its own (peer.h), none of the library's code.
 *
 *   GET /bytes/N    N bytes, Content-Length        POST /echo      the body back
 *   GET /eof/N      N bytes until the end          GET /chunked/N  in chunks, with a trailer X-Test
 *
 * Body bytes are the pattern of fixture_pool.h's calls.
 */
#ifndef TESTS_SUPPORT_TLS_SERVER_H
#define TESTS_SUPPORT_TLS_SERVER_H

#include "tests/support/peer.h"
#include "tests/support/tls_certs.h"

enum tls_stage {
    TLS_AT_ACCEPT,   /* nothing was read */
    TLS_AT_HELLO,    /* the client's hello was; before ours */
    TLS_AT_FLIGHT,   /* after the record with our hello */
    TLS_AT_FINISHED, /* before the record with our Finished */
    TLS_AT_READY,    /* after the handshake, and the tickets if there are any */
    TLS_AT_REQUEST,  /* a request was read; before its response */
    TLS_AT_BODY,     /* half of the response's body has left */
    TLS_AT_IDLE,     /* a response has left, and the conn lives on */
    TLS_AT_END,      /* the last response of the conn has left */
    TLS_STAGES
};

enum tls_act {
    TLS_NOTHING,
    /* ... and goes on: */
    TLS_PAUSE,         /* value: milliseconds */
    TLS_KEY_UPDATE,    /* value: whether it asks for the client's, too; len: how often more */
    TLS_TICKETS,       /* value: how many more */
    TLS_EMPTIES,       /* value: how many records without a byte */
    TLS_HELLO_REQUEST, /* value: how many */
    /* ... and says no more: */
    TLS_STALL,       /* until the client goes */
    TLS_ALERT,       /* value: its description; sealed as soon as there are keys */
    TLS_PLAIN_ALERT, /* the same, never sealed */
    TLS_RECORD,      /* value: its type; bytes, sealed */
    TLS_BYTES,       /* bytes as they are */
    TLS_CLOSE,       /* close_notify and FIN; value: bytes of data between the two */
    TLS_FIN,         /* without close_notify */
    TLS_RST
};

struct tls_deed {
    enum tls_act act;
    int value;
    const void *bytes;
    size_t len;
};

enum tls_mischief {
    TLS_FAIR,
    TLS_CUT,     /* the record's first `at` bytes, then FIN */
    TLS_FLIPPED, /* a bit of its byte `at`, from its end */
    TLS_TWICE,   /* the same record again */
    TLS_OTHER    /* its type becomes `at` */
};

/* All zero: a good server of TLS 1.2 and 1.3 that sends two tickets. */
struct tls_script {
    int version_min, version_max;              /* 10..13; 0 = 12, 13 */
    const char *ciphers;                       /* of TLS 1.2; NULL = AES-128-GCM */
    const char *suites;                        /* of TLS 1.3; NULL = AES-128-GCM */
    const char *groups;                        /* NULL = OpenSSL's */
    const struct tls_identity *identity;       /* NULL = the first P-256 */
    const struct tls_identity *client_issuer;  /* demands a client certificate of this root */
    const struct tls_identity *client_issuer2; /* or of this one */
    bool client_optional;                      /* ... or none */
    const char *alpn;                          /* what it selects if offered; NULL = none */
    bool has_no_tickets;
    int tickets; /* of a TLS 1.3 handshake; 0 = 2, -1 = none yet */
    long ticket_lifetime_s;
    uint32_t early_max;
    bool refuses_early;
    int hello_delay_ms;        /* the hello of each conn waits this long */
    const atomic_bool *gate;   /* ... and until this is true; NULL = it is */
    size_t handshake_max;      /* bytes in a handshake record, from 512; 0 = 16384 */
    size_t record_max;         /* bytes in an application record; 0 = 16384 */
    bool is_dribbled;          /* every byte leaves in a send of its own */
    uint8_t (*body)(size_t i); /* NULL = tls_body */
    int requests_max;          /* per conn; 0 = any */
    struct tls_deed at[TLS_STAGES];
    struct {
        enum tls_mischief how;
        bool in_handshake; /* counting from the first record of a conn, else from TLS_AT_READY */
        unsigned nth;
        size_t at;
    } wire;
};

/* What was seen of one conn. */
struct tls_seen {
    bool is_ready; /* the handshake is complete on the server's side */
    bool is_over;
    bool has_hello;
    bool has_offered; /* a ticket */
    uint64_t ticket;  /* a hash of what it offered */
    bool is_resumed;
    bool is_early_accepted;
    size_t early_len; /* bytes of early data that were accepted */
    bool offers_early;
    int version; /* 12, 13 */
    char cipher[48], sni[64];
    char alpn_offered[64]; /* "h2,http/1.1" */
    bool has_client_cert;
    char client_name[64]; /* the CN */
    char head[512];       /* of the last request */
    int requests;
    size_t body_len;       /* of requests */
    unsigned data_records; /* application records the client sent after the handshake */
    unsigned close_notifies, key_updates; /* the client's */
    size_t late_len;                      /* bytes that came after its close_notify */
    int alert;                            /* the last that the client sent but that; -1 = none */
    bool was_reset;                       /* by the client, which had not said goodbye */
};

struct tls_server;

struct tls_server *tls_server_start(const struct tls_script *s); /* NULL = all zero */
/* For conns accepted from now on. Session tickets of before remain good. */
void tls_server_set(struct tls_server *s, const struct tls_script *script);
/* It has new keys: tickets of before are worth nothing. */
void tls_server_forget(struct tls_server *s);
void tls_server_stop(struct tls_server *s);
const char *tls_server_url(const struct tls_server *s); /* "https://127.0.0.1:PORT" */
int tls_server_port(const struct tls_server *s);
unsigned tls_server_conns(struct tls_server *s); /* accepted */
unsigned tls_server_open(struct tls_server *s);
unsigned tls_server_ready(struct tls_server *s); /* handshakes completed */
struct tls_seen tls_server_seen(struct tls_server *s, unsigned nth);
unsigned tls_server_requests(struct tls_server *s); /* on all conns */
/* Most handshakes at one time between the client's hello and our Finished. */
unsigned tls_server_peak(struct tls_server *s);
/* Byte i of every body it makes. */
static inline uint8_t tls_body(size_t i)
{
    return (uint8_t)(i % 251 * 131 % 251);
}

#endif
