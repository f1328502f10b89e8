/* TLS between a conn's socket and its buffers. Only conn.c and the handshake call into it. */
#ifndef ORIGIN_TLS_CONN_H
#define ORIGIN_TLS_CONN_H

#include "conn.h"

struct ssl_st;

struct tls_conn {
    struct ssl_st *ssl;
    struct span raw;     /* received, not yet decrypted: in the loop's scratch or in `raw_kept` */
    struct buf raw_kept; /* ciphertext that waits until its plaintext finds room */
    struct buf sealed;   /* ciphertext the socket refused */
    size_t sealed_sent;
    unsigned receives_left;  /* of the socket, before others have their turn */
    enum io_result received; /* what the socket last said; IO_END and IO_FAILED stay */
    uint64_t plain_in;       /* bytes decrypted so far */
    uint64_t early_len;      /* of them, those that came as early data */
    bool is_early_over;
    bool is_refused; /* the handshake failed: discarding until the peer has read why */
    unsigned hellos; /* 2: the first was answered with HelloRetryRequest */
};

/* Before any conn, after the last. */
bool tls_conn_init(void);
void tls_conn_exit(void);

void tls_conn_open(struct conn *c);
void tls_conn_fini(struct conn *c);

/* As conn_read, conn_send and conn_notify; they leave no ciphertext in the loop's scratch. */
enum io_result tls_read(struct conn *c, char *into, size_t room, size_t *out_len);
enum io_result tls_send(struct conn *c, const struct span *pieces, unsigned count,
                        uint64_t *out_taken);
enum io_result tls_notify(struct conn *c);

/* Sends ciphertext; IO_AGAIN if the socket refused some, which is kept. */
enum io_result tls_push(struct conn *c);
/* After a call to OpenSSL that did not succeed: what is missing. */
enum io_result tls_failure(struct conn *c, int result);
/* What was received and not decrypted leaves the loop's scratch, which others will use. */
void tls_keep_raw(struct conn *c);

/* Was the byte that the conn's view begins with early data? */
bool tls_is_early(const struct conn *c);
/* What the handshake agreed on, as lines of text. */
void tls_describe(const struct conn *c, struct buf *out);
int tls_conn_count_hello(struct ssl_st *ssl, int *alert, void *user);

/* The handshake; then the conn's protocol becomes the one that ALPN chose. */
extern const struct protocol tls_protocol;

static inline bool tls_has_sealed(const struct tls_conn *t)
{
    return t->sealed.len > 0;
}

#endif
