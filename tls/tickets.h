/*
 * Session tickets, serialised, by endpoint and configuration: several for each, used once where there are
 * more. Any thread; one lock, O(1) under it but for the few tickets of one key that have expired.
 */
#ifndef MR_TLS_TICKETS_H
#define MR_TLS_TICKETS_H

#include "alloc/heap.h"
#include "tls/library.h"

/* Endpoints remembered; the one unused for longest goes. Bounds what an open pool collects. */
#define MR_TICKET_KEYS_MAX 2048
/* RFC 8446 4.6.1: no client uses a ticket for longer, whatever the server says. */
#define MR_TICKET_LIFE_MAX_S (7 * 86400)
/* One ticket as the library serialises it; a server decides its size. */
#define MR_TICKET_BYTES_MAX 4096
/* All of them: the endpoint unused for longest goes, so that no number of servers grows it further. */
#define MR_TICKETS_BYTES_MAX ((size_t)8 << 20)

struct mr_tickets;

struct mr_ticket {
    struct mr_ticket *next;
    _Atomic(uint32_t) refs;
    uint32_t len;
    uint32_t early_max; /* bytes of early data the server takes; 0 = none */
    bool is_reusable;   /* of TLS 1.2, where using one again tells nobody anything new */
    int64_t expires_s;  /* the ticket's or the certificate's end, whichever is first */
    int64_t cert_expires_s;
    uint8_t bytes[];
};

/* NULL: out of memory. */
struct mr_tickets *mr_tickets_create(struct mr_heap *heap);
void mr_tickets_destroy(struct mr_tickets *t);

/* Copies; the oldest of the key goes at `max`. Nothing is kept where memory is short: a handshake will be a
 * full one. `like`: len and bytes are not looked at. */
void mr_tickets_put(struct mr_tickets *t, const uint8_t key[MR_TLS_HASH_SIZE], uint32_t max,
                    const struct mr_ticket *like, moor_span bytes);
/* The newest, for mr_ticket_unref; it stays in the store only if it is reusable or the last one. NULL: none. */
struct mr_ticket *mr_tickets_take(struct mr_tickets *t, const uint8_t key[MR_TLS_HASH_SIZE],
                                  int64_t now_s);
/* The server would have none of one: nor, so it seems, of the others. */
void mr_tickets_forget(struct mr_tickets *t, const uint8_t key[MR_TLS_HASH_SIZE]);
/* Wipes and frees the last reference. NULL is fine. */
void mr_ticket_unref(struct mr_heap *heap, struct mr_ticket *ticket);
/* Bytes of all of them. */
size_t mr_tickets_bytes(struct mr_tickets *t);
/* Tickets held for a key. */
uint32_t mr_tickets_count(struct mr_tickets *t, const uint8_t key[MR_TLS_HASH_SIZE]);

#endif
