/*
 * A line protocol for tests, many claims on one conn. The server says how many, whenever it likes:
 *
 *   server: "cap N"  capacity is N from now on      client: "do ID"   a claim's request
 *           "done ID" the answer to it                      "bye"     mr_conn_drain, said once
 *           "drain"  no new claims, please
 *           "note"   counted; may come at any time
 *
 * The server side is no thread: the test says its lines and reads ours when it wants to.
 */
#ifndef TESTS_SUPPORT_COUNT_PROTOCOL_H
#define TESTS_SUPPORT_COUNT_PROTOCOL_H

#include "core/berth.h"
#include "core/pool.h"

#define COUNT_EXPECTED 3

extern const struct mr_protocol count_protocol;

struct count_counts {
    unsigned opened, dropped, notes, drains;
    unsigned said, heard; /* the server's lines; ours of them */
    size_t written, read; /* our bytes; the server's of them */
};
extern struct count_counts count_counts;

/* One request. Zeroed before. */
struct count_request {
    struct mr_claim claim;
    struct mr_list link; /* the conn's */
    struct mr_out out;
    char line[32];
    unsigned id;
    struct mr_conn *conn; /* while it runs */
    struct mr_conn *was_on;
    bool is_reused;
    unsigned granted, done, failed;
    moor_fault fault;
    struct count_request *next; /* acquired from inside failed, if set */
    struct mr_berth *next_berth;
};

MOOR_NODISCARD moor_err count_acquire(struct mr_berth *b, struct count_request *r, unsigned id);
/* The claim ends before its answer. */
void count_give_up(struct count_request *r, bool is_reusable);

#define COUNT_CONNS_MAX 16
struct count_server {
    int listener;
    uint16_t port;
    int fds[COUNT_CONNS_MAX]; /* in the order of accepting; -1 = closed by count_hang_up */
    unsigned conns;
    char heard[COUNT_CONNS_MAX][4096];
    size_t heard_len[COUNT_CONNS_MAX];
};

void count_server_init(struct count_server *s);
void count_server_fini(struct count_server *s);
/* Accepts and reads what is there, without waiting; new conns are told "cap N" if announces > 0. */
void count_server_look(struct count_server *s, unsigned announces);
/* Everything said on either side has arrived. */
bool count_is_quiet(void);
void count_say(struct count_server *s, unsigned conn, const char *line);
/* How often the conn has said it. */
unsigned count_heard(const struct count_server *s, unsigned conn, const char *line);
/* FIN, or RST. */
void count_hang_up(struct count_server *s, unsigned conn, bool with_reset);

#endif
