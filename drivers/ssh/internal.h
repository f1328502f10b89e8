/*
 * What the parts of the ssh driver share: a pool's configuration, which nobody changes once it is open, and the
 * state of one connection, which belongs to whoever runs a hook of it: the keeper, the helper thread that works
 * for it meanwhile, or the holder of its lease. Never two of them at a time.
 */
#ifndef DRIVERS_SSH_INTERNAL_H
#define DRIVERS_SSH_INTERNAL_H

#include <mooring/ssh.h>

#include <libssh/libssh.h>

#include <stdatomic.h>
#include <sys/types.h>

#define MR_SSH_IDENTITIES_MAX  8
#define MR_SSH_PINS_MAX        8
#define MR_SSH_VALUE_MAX       4096 /* of one option in the query */
#define MR_SSH_ALGORITHMS_MAX  4
#define MR_SSH_TEXT_MAX        160 /* moor_link_fail cuts there */
#define MR_SSH_FINGERPRINT_MAX 64  /* "SHA256:" and 43 characters */
/* What an agent may answer: libssh's own bound. */
#define MR_SSH_AGENT_BYTES_MAX ((uint32_t)256 << 10)
/* What a server may send before we are logged in: libssh would read greetings for ever. */
#define MR_SSH_LOGIN_BYTES_MAX ((uint64_t)256 << 10)
/* Reads of libssh's, of 4 KiB, that one hook takes in: about half a millisecond of decryption. */
#define MR_SSH_PUMPS_MAX 16

enum mr_ssh_method { MR_SSH_AGENT, MR_SSH_KEY, MR_SSH_PASSWORD, MR_SSH_METHODS };

struct mr_ssh_algorithms {
    enum ssh_options_e option;
    char *names;
};

struct mr_ssh_config {
    char *known_hosts;           /* NULL = the user's and the system's               */
    char *pins[MR_SSH_PINS_MAX]; /* "SHA256:..."; instead of known hosts             */
    unsigned pin_count;
    bool is_insecure; /* no look at the server's key at all               */
    char *identities[MR_SSH_IDENTITIES_MAX];
    unsigned identity_count;
    bool are_default; /* those that are tried if they are there           */
    enum mr_ssh_method methods[MR_SSH_METHODS]; /* in this order                             */
    unsigned method_count;
    bool are_methods_given;
    char *agent;              /* path of its socket; NULL = none                  */
    moor_ms agent_timeout_ms; /* for one answer                                   */
    struct mr_ssh_algorithms algorithms[MR_SSH_ALGORITHMS_MAX];
    unsigned algorithm_count;
};

/* Where a connect stands. */
enum mr_ssh_stage {
    MR_SSH_GREETING, /* banners and key exchange */
    MR_SSH_HOST_KEY,
    MR_SSH_LOGIN, /* a method of config->methods */
    MR_SSH_READY,
};

/* What a helper's step came to, for the keeper to act on. */
enum mr_ssh_next {
    MR_SSH_NEXT_WAIT,  /* for the session's socket */
    MR_SSH_NEXT_PROBE, /* ask the agent whether it lives, before libssh waits for it */
    MR_SSH_NEXT_DONE,
    MR_SSH_NEXT_FAILED,
};

#define MR_SSH_MAGIC 0x6d737368u

struct mr_ssh_link {
    unsigned magic; /* MR_SSH_MAGIC: a lease of another driver's is not taken for ours */
    ssh_session session;
    int fd;      /* the session's, which libssh forgets without closing it      */
    ino_t inode; /* of fd: is that number still ours?                           */
    const struct mr_ssh_config *config;
    const moor_target *target; /* while it connects                                           */
    struct ssh_counter_struct bytes, packets;
    enum mr_ssh_stage stage;
    enum mr_ssh_next next;
    unsigned method_at, identity_at;
    ssh_key key;                 /* the identity that is being tried                            */
    char tried[MR_SSH_TEXT_MAX]; /* "agent, /path/key"                                          */
    moor_err err;                /* of NEXT_FAILED                                              */
    char text[MR_SSH_TEXT_MAX];

    /* The agent. */
    int agent_fd;                /* the keeper's, until libssh has it; -1                       */
    int agent_watch_fd;          /* the same socket, to cut libssh's wait short; -1             */
    bool is_agent_ready;         /* libssh has the agent's socket                               */
    bool is_agent_over;          /* there is none, or it has nothing for us                     */
    _Atomic(bool) is_agent_late; /* its time is over: the socket was cut                        */
    bool is_agent_dialing;       /* its backlog was full                                        */
    moor_ms agent_waited_ms;
    unsigned char agent_bytes[9]; /* its answer: length, kind, number of keys                    */
    uint32_t agent_got, agent_len;
    moor_poll agent_watch;

    /* The multiplexer's, which asks while it has the lease. */
    uint32_t channels_limit;   /* the server refused one more than this; 0 = not yet          */
    uint32_t channels_closed;  /* that the server may still count                            */
    int64_t channels_limit_ms; /* since when                                                  */
};

/* config.c: the thread that opens the pool. */
moor_err mr_ssh_config_open(const moor_driver_url *url, const void *unused, void **out, char *why,
                            size_t why_cap);
void mr_ssh_config_shut(void *config);
/* Does everything the configuration says that is no matter of one method. 0, or what failed is in its error. */
int mr_ssh_config_apply(const struct mr_ssh_config *c, ssh_session session);

/* connect.c: the keeper, but for what it gives to moor_link_block. */
moor_step mr_ssh_connect(moor_link *l);
moor_step mr_ssh_connect_resume(moor_link *l, unsigned events);
/* The next steps, on a helper. */
moor_step mr_ssh_connect_go_on(moor_link *l);
/* Notes a failure for the keeper to report: a helper may not call moor_link_fail. */
void mr_ssh_failed(struct mr_ssh_link *s, moor_err err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Whether libssh still has a connection. */
bool mr_ssh_is_alive(ssh_session session);
/* What to wait for on its socket. */
short mr_ssh_events(ssh_session session);

/* hostkey.c, login.c: on a helper. True: the stage is over; else s->next says how to go on. */
bool mr_ssh_check_host(struct mr_ssh_link *s);
bool mr_ssh_log_in(struct mr_ssh_link *s);

/* agent.c: the keeper. */
moor_step mr_ssh_agent_probe(moor_link *l);
moor_step mr_ssh_agent_resume(moor_link *l, unsigned events);
/* Bounds what libssh does with the agent on a helper. */
void mr_ssh_agent_watch(struct mr_ssh_link *s);
void mr_ssh_agent_unwatch(struct mr_ssh_link *s);
void mr_ssh_agent_drop(struct mr_ssh_link *s);

#endif
