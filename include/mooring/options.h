/*
 * Every option of a runtime and of a pool. base/options.def is the same list with ranges and help; the
 * build fails where the two disagree. docs/tuning.md says what each does to a running program.
 *
 *     moor_pool_options o;
 *     moor_pool_options_init(&o);      fills every default
 *     o.conns_max = 20;
 *
 * Each option has a variable, MOORING_ and the field's name in capitals (MOORING_CONNS_MAX; log_level's is
 * MOORING_LOG). For one pool, MOORING_POOL_<NAME>_CONNS_MAX, <NAME> being the pool's name in capitals with
 * '_' for what is not a letter or digit. MOORING_PRESET=development|production|latency|throughput sets many.
 * Weakest first: default, preset, what the program set, MOORING_<OPTION>, MOORING_POOL_<NAME>_<OPTION>; an
 * operator can thus correct a program that runs. A preset leaves alone what the program set to anything but
 * the default. Numbers take suffixes: ms s m h for times, k m g (KiB MiB GiB) for bytes. Programs with
 * raised privileges (setuid) read no variable.
 */
#ifndef MOORING_OPTIONS_H
#define MOORING_OPTIONS_H

#include <mooring/error.h>
#include <mooring/hooks.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MOOR_SHARDS_AUTO UINT32_MAX

typedef enum moor_log_level {
    MOOR_LOG_OFF,
    MOOR_LOG_ERROR,
    MOOR_LOG_WARN,
    MOOR_LOG_INFO,
    MOOR_LOG_DEBUG,
    MOOR_LOG_FORCE_INT_ = 0x7fffffff
} moor_log_level;

/* Texts are borrowed until moor_runtime_create has returned. */
typedef struct moor_runtime_options {
    size_t size;                  /* set by moor_runtime_options_init                        */
    uint32_t shards;              /* threads of ours: AUTO = one per allowed CPU; 0..64, 0 = adopted only */
    uint32_t spin_us;             /* a shard polls this long before it sleeps; 0..1000, 0     */
    uint32_t gather_us;           /* HTTP/2: a shard may sleep this long for more responses; 0..1000, 50 */
    size_t memory_limit;          /* bytes per shard, all arenas and buffers; 256 MiB         */
    size_t recv_buffer_size;      /* bytes, a power of two; 512..1 MiB, 16 KiB                */
    uint32_t recv_buffers;        /* most receive buffers per shard; 8..32768, 256            */
    uint32_t ring_entries;        /* submission queue; 16..32768, 512                         */
    size_t recv_posted_bytes;     /* bytes posted to the kernel per shard; 4 KiB..64 MiB, 1 MiB */
    uint32_t conns_max_runtime;   /* over all pools; 0 = no cap but descriptors and memory    */
    uint32_t dns_cache_max;       /* names; 1024                                              */
    uint32_t tls_handshakes_max;  /* TLS handshakes at a time, per shard; 64                  */
    uint32_t helpers_max;         /* threads for what drivers can only do blocking; 1..256, 4 */
    const char *io_backend;       /* "auto", "io_uring" or "epoll"                            */
    const char *io_mask;          /* kernel features to leave unused, "a,b" or "6.1"; NULL    */
    const char *dns_servers;      /* "127.0.0.1:5353,[::1]:53"; NULL = resolv.conf's          */
    const char *hosts_file;       /* "/etc/hosts"; "" = none                                  */
    const char *resolv_conf;      /* "/etc/resolv.conf"                                       */
    moor_ms dns_timeout_ms;       /* per try of a name server; 2000                           */
    moor_ms dns_ttl_max_ms;       /* ceiling of an answer's life in the cache; 300000         */
    moor_ms dns_negative_ttl_ms;  /* how long "no such name" is believed; 1000                */
    moor_ms dns_files_check_ms;   /* how often hosts and resolv.conf are looked at; 0 = never; 5000 */
    uint32_t dns_tries;           /* rounds over the name servers; 1..10, 3                   */
    moor_log_level log_level;     /* MOOR_LOG_WARN                                            */
    bool shard_pin;               /* each shard thread stays on one CPU; true                 */
    void (*on_log)(void *user, int level, const char *code, const char *text); /* NULL = stderr;
                                     any thread, no call of ours allowed inside               */
    void *log_user;
} moor_runtime_options;

struct moor_event;
/* Texts are borrowed until moor_pool_open has returned. MOOR_FOREVER where it says "or forever". */
typedef struct moor_pool_options {
    size_t size;                  /* set by moor_pool_options_init                            */
    const char *name;             /* for variables, logs and metrics; NULL = made from the URL */
    uint32_t conns_max;           /* per endpoint, over all shards; 1..1000000, 100           */
    uint32_t conns_min_idle;      /* kept warm, never above conns_max, 1 of HTTP/2; 10; open pools: 0 */
    uint32_t conns_max_pool;      /* over all endpoints; 0 = no cap                           */
    uint32_t origins_max;         /* open pools: origins in its life; 1024                     */
    uint32_t dials_max;           /* connects in progress, per endpoint; 8                    */
    uint32_t waiters_max;         /* acquires that may wait; 0 = fail at once; 10000          */
    uint32_t steal_keep;          /* idle conns a shard keeps when others take; 2             */
    uint32_t uses_max;            /* exchanges per connection; 0 = no limit                   */
    moor_ms connect_timeout_ms;   /* name, TCP and TLS together; 10000                        */
    moor_ms acquire_timeout_ms;   /* or forever; 0 = never wait; 30000                        */
    moor_ms total_timeout_ms;     /* a request from call to end, or forever; forever          */
    moor_ms first_byte_timeout_ms;      /* from request sent to first reply byte, or forever; forever */
    moor_ms expect_continue_timeout_ms; /* wait for 100 before the body goes anyway; 1000     */
    moor_ms idle_timeout_ms;      /* or forever; 90000                                        */
    moor_ms lifetime_max_ms;      /* or forever; 300000                                       */
    uint32_t lifetime_jitter_percent;   /* spread of lifetime_max_ms, both ways; 0..50, 10    */
    moor_ms check_after_ms;       /* drivers: idle for longer: checked before use, or forever; 60000 */
    moor_ms check_every_ms;       /* drivers, HTTP/2: between checks of an idle conn, or forever; 30000 */
    bool check_on_return;         /* drivers: checked whenever it comes back; false           */
    const char *eviction;         /* "lifo", "fifo" or "lru"                                  */
    moor_ms surplus_decay_ms;     /* drivers: a part of what was not needed closes, or forever; 10000 */
    moor_ms leak_after_ms;        /* a lease held for longer is reported, or forever; 60000   */
    uint32_t acquire_spin_us;     /* drivers: an acquire looks again before it queues; 0..5, 2 */
    uint32_t keepalive_idle_s;    /* TCP keepalive after this; 0 = off; 30                    */
    uint32_t keepalive_interval_s;      /* between its probes; 10                             */
    uint32_t keepalive_count;     /* probes unanswered until the conn is dead; 3              */
    moor_ms user_timeout_ms;      /* sent bytes unacknowledged this long: dead; 0 = kernel's; 60000 */
    moor_ms backoff_min_ms;       /* after a failed connect; doubles; 100                     */
    moor_ms backoff_max_ms;       /* up to this, so recovery is noticed within it; 900        */
    moor_ms happy_eyeballs_delay_ms;    /* before the next address is tried beside; 250       */
    size_t header_bytes_max;      /* of a reply's head; 64 KiB                                */
    size_t body_bytes_max;        /* of a reply's body; 0 = no limit                          */
    size_t fetch_body_max;        /* body moor_http_fetch keeps in memory; 1 GiB              */
    size_t drain_unread_max;      /* HTTP/1.1: unread body read to save a conn; 0 = close; 64 KiB       */
    size_t window_bytes;          /* HTTP/1.1, byte streams: lent or unconsumed per exchange before
                                     reading pauses; 256 KiB                                  */
    uint32_t header_count_max;    /* of a reply's head; 128                                   */
    uint32_t stream_queue_max;    /* pieces unsent on a byte stream; 1024                     */
    uint32_t replays_max;         /* a request is sent again where safe; 0..10, 2             */
    const char *http_version;     /* "auto": over TLS as ALPN picks, else 1.1; "1.1"; "2": nothing
                                     else, in clear text with prior knowledge                 */
    uint32_t h2_streams_max;      /* requests at a time per HTTP/2 conn, and no more than the peer
                                     allows; 1..100000, 100                                   */
    uint32_t h2_streams_ideal;    /* above it a further conn is dialled; 0 = only at the maximum;
                                     0..100000, 0                                             */
    size_t h2_window_stream;      /* bytes a peer may send per stream, grows to half of h2_window_max;
                                     64 KiB - 1..1 GiB, 64 KiB                                */
    size_t h2_window_conn;        /* the same for all streams of a conn; the same range, 128 KiB */
    size_t h2_window_max;         /* what a conn's may grow to, and what may be lent of it before
                                     its peer has to wait; the same range, 8 MiB              */
    moor_ms h2_ping_after_ms;     /* nothing received for longer: a PING goes with the next request,
                                     and while responses are due; 1 ms to a day, or forever; 5000 */
    moor_ms h2_ping_timeout_ms;   /* unanswered for longer: the conn is closed; 1 ms to a day; 2000 */
    moor_ms h2_stall_timeout_ms;  /* the server's windows let less than 1 KiB of a request's body
                                     through: it fails; 1 ms to a day, or forever; 60000      */
    bool h2_coalesce;             /* other hosts of the same address and certificate share conns; false */
    const char *tls_ca;           /* PEM file or directory of them; NULL = the system's roots */
    const char *tls_cert;         /* PEM: our certificate, then its intermediates; NULL = none */
    const char *tls_key;          /* PEM, not encrypted; NULL = in tls_cert's file            */
    const char *tls_pins;         /* "sha256/BASE64,...": of SubjectPublicKeyInfo; NULL = none */
    bool tls_pin_chain;           /* pins match any member of the verified chain; false: the leaf */
    const char *tls_server_name;  /* SNI and verified name, of every origin; NULL = the URL's host */
    const char *tls_version_min;  /* "1.2" or "1.3"; "1.2"                                    */
    uint32_t tls_tickets_max;     /* per endpoint; 0 = no resumption; 256                     */
    bool tls_early_data;          /* 0-RTT for requests marked replayable; false              */
    uint32_t tls_expiry_warn_days;      /* MOOR_EVENT_CERT_EXPIRING; 0 = never; 14            */
    bool tls_insecure;            /* no verification at all: tests only; false                */
    void (*on_event)(void *user, const struct moor_event *e); /* see mooring/event.h;
                                     reading statistics is the only call of ours allowed inside */
    void *event_user;
    /* PEM in memory instead of the files above; len 0 = none. Not kept after moor_pool_open and
     * moor_pool_tls_reload. Of the key nothing is kept but what signs.                        */
    moor_span tls_ca_pem, tls_cert_pem, tls_key_pem;
    const void *driver_config;    /* the driver's own options, borrowed as the texts are; NULL */
    moor_pool_hooks hooks;        /* what the program decides itself: mooring/hooks.h         */
} moor_pool_options;

/* Fills in defaults, never reads the environment. */
MOOR_API void moor_runtime_options_init_sized(moor_runtime_options *o, size_t size) MOOR_ANY_THREAD;
#define moor_runtime_options_init(o) moor_runtime_options_init_sized((o), sizeof *(o))
MOOR_API void moor_pool_options_init_sized(moor_pool_options *o, size_t size) MOOR_ANY_THREAD;
#define moor_pool_options_init(o) moor_pool_options_init_sized((o), sizeof *(o))

/*
 * Overlays the environment. On a bad variable returns EINVAL, *o is unchanged and out_text (may be NULL with
 * cap 0) names variable, value and range: MOORING_CONNS_MAX="0" is out of range: 1..1000000.
 * Texts set from variables point into the environment. For a pool, o->name selects MOORING_POOL_<NAME>_*.
 * moor_pool_open does this itself; it is public so that a program can see the outcome.
 */
MOOR_API MOOR_NODISCARD moor_err moor_runtime_options_from_env(moor_runtime_options *o, char *out_text,
                                                               size_t text_cap) MOOR_ANY_THREAD;
MOOR_API MOOR_NODISCARD moor_err moor_pool_options_from_env(moor_pool_options *o, char *out_text,
                                                            size_t text_cap) MOOR_ANY_THREAD;

typedef enum moor_options_format {
    MOOR_OPTIONS_TEXT,     /* for a terminal                                                  */
    MOOR_OPTIONS_MARKDOWN, /* the generated part of docs/tuning.md                            */
    MOOR_OPTIONS_FORCE_INT_ = 0x7fffffff
} moor_options_format;
/* Every option with variable, default, range and effect, in pieces to `write`. */
MOOR_API void moor_options_write(moor_options_format format,
                                 void (*write)(void *user, const char *text, size_t len),
                                 void *user) MOOR_ANY_THREAD;

#ifdef __cplusplus
}
#endif
#endif
