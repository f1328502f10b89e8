/*
 * The peer: libcurl's multi interface as fast as it goes. Event-driven (multi_socket_action on
 * epoll), handles set up once and added again for each request, one write callback that counts.
 * curl takes a socket out of the set after each reply and puts it back for the next request; we
 * leave it in the set meanwhile, which saves two system calls a request. With -p we do as told, as
 * curl's own examples do. With -2 all handles are streams of one conn. One thread.
 */
#include "client.h"

#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { FDS_MAX = 20480, EVENTS_MAX = 256 };

struct peer {
    CURLM *multi;
    const struct load_job *job;
    int epoll;
    uint32_t polled[FDS_MAX]; /* what the set has for each descriptor; 0 = not in it */
    long timeout_ms;          /* as curl wants it; -1 = none */
    uint64_t left;            /* requests still to be made */
    unsigned in_flight;
    unsigned conns; /* sockets opened */
    /* Clear HTTP/2: the handle that makes the conn by prior knowledge. All others find it there and
     * must not ask for that: 7.88.1 then fails (curl issue 10634). NULL = it did. */
    CURL *opener;
    long version; /* of HTTP, that responses must have */
    struct load_result result;
};

static size_t on_body(char *bytes, size_t size, size_t count, void *user)
{
    struct peer *p = user;
    (void)bytes;
    p->result.bytes += size * count;
    return size * count;
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *user, void *of_socket)
{
    struct peer *p = user;
    (void)easy;
    (void)of_socket;
    if (fd >= FDS_MAX)
        return -1;
    uint32_t wanted = 0;
    if (what != CURL_POLL_REMOVE) /* no set of bits like the others */
        wanted = (what & CURL_POLL_IN ? EPOLLIN : 0u) | (what & CURL_POLL_OUT ? EPOLLOUT : 0u);
    if (p->polled[fd] == wanted || (!wanted && !p->job->is_plain))
        return 0;
    struct epoll_event event = {.events = wanted, .data.fd = fd};
    const int how = !wanted ? EPOLL_CTL_DEL : p->polled[fd] ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    p->polled[fd] = wanted;
    return epoll_ctl(p->epoll, how, fd, &event);
}

static curl_socket_t on_open(void *user, curlsocktype purpose, struct curl_sockaddr *to)
{
    struct peer *p = user;
    (void)purpose;
    p->conns++;
    return socket(to->family, to->socktype | SOCK_CLOEXEC, to->protocol);
}

/* Closing takes the socket out of the set, and its number may come back. */
static int on_close(void *user, curl_socket_t fd)
{
    struct peer *p = user;
    if (fd < FDS_MAX)
        p->polled[fd] = 0;
    return close(fd);
}

static int on_timer(CURLM *multi, long timeout_ms, void *user)
{
    struct peer *p = user;
    (void)multi;
    p->timeout_ms = timeout_ms;
    return 0;
}

static void request(struct peer *p, CURL *easy)
{
    if (p->left == 0)
        return;
    p->left--;
    p->in_flight++;
    if (curl_multi_add_handle(p->multi, easy) != CURLM_OK)
        abort();
}

static CURL *make_handle(struct peer *p)
{
    CURL *easy = curl_easy_init();
    if (!easy)
        abort();
    curl_easy_setopt(easy, CURLOPT_URL, p->job->url);
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, p->version);
    if (p->job->is_h2)
        curl_easy_setopt(easy, CURLOPT_PIPEWAIT, 1L);
    curl_easy_setopt(easy, CURLOPT_PROXY, "");
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, p);
    if (p->job->tls.roots) /* verification itself is on by default */
        curl_easy_setopt(easy, CURLOPT_CAINFO, p->job->tls.roots);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, on_open);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, p);
    curl_easy_setopt(easy, CURLOPT_CLOSESOCKETFUNCTION, on_close);
    curl_easy_setopt(easy, CURLOPT_CLOSESOCKETDATA, p);
    return easy;
}

static void finish_requests(struct peer *p)
{
    int left;
    for (CURLMsg *m; (m = curl_multi_info_read(p->multi, &left));) {
        if (m->msg != CURLMSG_DONE)
            continue;
        CURL *easy = m->easy_handle;
        long status = 0, version = 0;
        if (m->data.result == CURLE_OK) {
            curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
            curl_easy_getinfo(easy, CURLINFO_HTTP_VERSION, &version);
        }
        if (status == 200 && version == p->version)
            p->result.requests++;
        else if (p->result.errors++ == 0)
            fprintf(stderr, "%s, status %ld, version %ld\n", curl_easy_strerror(m->data.result),
                    status, version);
        p->in_flight--;
        curl_multi_remove_handle(p->multi, easy);
        if (easy == p->opener) {
            curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, p->version);
            p->opener = NULL;
        }
        request(p, easy);
    }
}

static void turn(struct peer *p)
{
    struct epoll_event events[EVENTS_MAX];
    int running;
    const int patience = p->timeout_ms < 0 || p->timeout_ms > 100 ? 100 : (int)p->timeout_ms;
    const int count = epoll_wait(p->epoll, events, EVENTS_MAX, patience);
    for (int i = 0; i < count; i++) {
        const uint32_t e = events[i].events;
        curl_multi_socket_action(p->multi, events[i].data.fd,
                                 (e & EPOLLIN ? CURL_CSELECT_IN : 0) |
                                     (e & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
                                     (e & (EPOLLERR | EPOLLHUP) ? CURL_CSELECT_ERR : 0),
                                 &running);
    }
    /* Adding a handle asks for a timeout of 0: one call then starts all that were added. */
    if (p->timeout_ms == 0 || count == 0) {
        p->timeout_ms = -1;
        curl_multi_socket_action(p->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    }
    finish_requests(p);
}

static void work(struct peer *p)
{
    CURL **easy = calloc(p->job->conc, sizeof *easy);
    if (!easy)
        abort();
    for (unsigned i = 0; i < p->job->conc; i++)
        easy[i] = make_handle(p);
    if (p->job->is_h2 && !p->job->is_secure) {
        p->opener = easy[0];
        curl_easy_setopt(p->opener, CURLOPT_HTTP_VERSION,
                         (long)CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE);
    }
    const double start = load_clock();
    for (unsigned i = 0; i < p->job->conc; i++)
        request(p, easy[i]);
    while (p->in_flight > 0) {
        turn(p);
        if (p->left && load_clock() - start >= p->job->seconds)
            p->left = 0;
    }
    p->result.seconds = load_clock() - start;
    for (unsigned i = 0; i < p->job->conc; i++)
        curl_easy_cleanup(easy[i]);
    free(easy);
}

static void choose_version(struct peer *p)
{
    p->version = p->job->is_h2 ? CURL_HTTP_VERSION_2_0 : CURL_HTTP_VERSION_1_1;
    if (!p->job->is_h2)
        return;
    curl_multi_setopt(p->multi, CURLMOPT_PIPELINING, (long)CURLPIPE_MULTIPLEX);
    curl_multi_setopt(p->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, 1L);
    curl_multi_setopt(p->multi, CURLMOPT_MAX_HOST_CONNECTIONS, 1L);
    curl_multi_setopt(p->multi, CURLMOPT_MAX_CONCURRENT_STREAMS, (long)p->job->conc);
}

int main(int argc, char **argv)
{
    static struct peer p = {.timeout_ms = -1};
    struct load_job job;
    char more[256];
    if (!load_job_read(argc, argv, curl_version(), &job))
        return 2;
    p.job = &job;
    p.left = job.requests;
    p.epoll = epoll_create1(EPOLL_CLOEXEC);
    curl_global_init(CURL_GLOBAL_DEFAULT);
    p.multi = curl_multi_init();
    if (p.epoll < 0 || !p.multi)
        return 1;
    curl_multi_setopt(p.multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(p.multi, CURLMOPT_SOCKETDATA, &p);
    curl_multi_setopt(p.multi, CURLMOPT_TIMERFUNCTION, on_timer);
    curl_multi_setopt(p.multi, CURLMOPT_TIMERDATA, &p);
    /* Else it keeps four times the handles, which is more than there are at the start. */
    curl_multi_setopt(p.multi, CURLMOPT_MAXCONNECTS, (long)job.conc);
    choose_version(&p);
    work(&p);
    curl_multi_cleanup(p.multi);
    snprintf(more, sizeof more, ",\"version\":\"%.200s\",\"conns\":%u", curl_version(), p.conns);
    const int status = load_report(&p.result, more);
    curl_global_cleanup();
    return status;
}
