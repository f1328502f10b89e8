/*
 * The floor: the least an io_uring client can do for a request. Multishot receive into one ring of
 * provided buffers, one send a request, one system call a turn. It parses nothing: the first reply
 * says how many bytes a reply has, and the others are counted by that. One thread.
 */
#include "client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <liburing.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    CONC_MAX = 1024,
    RING_ENTRIES = 512,
    RING_COMPLETIONS = 4096,
    BUFFERS = 256, /* a power of two; 1 MiB together, which stays in the cache */
    BUFFER_SIZE = 4096,
    BUFFER_GROUP = 0,
};

enum kind { KIND_RECV, KIND_SEND };

struct bare {
    struct io_uring ring;
    struct io_uring_buf_ring *buffers;
    char *memory; /* of the buffers */
    const struct load_job *job;
    char request[1024];
    unsigned request_size;
    unsigned reply_size;
    int fds[CONC_MAX];
    unsigned missing[CONC_MAX]; /* bytes of the reply still to come */
    uint64_t left;              /* requests still to be made */
    unsigned in_flight;
    struct load_result result;
};

static int connect_one(const struct load_job *job)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(job->port)};
    const int one = 1;
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (inet_pton(AF_INET, job->address, &to.sin_addr) != 1 || fd < 0 ||
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) ||
        connect(fd, (struct sockaddr *)&to, sizeof to)) {
        perror("connect");
        exit(1);
    }
    return fd;
}

/* One exchange with system calls: how long a reply is, head and body. */
static bool learn_reply(struct bare *b)
{
    char text[8192];
    size_t used = 0, size = SIZE_MAX;
    const int fd = connect_one(b->job);
    if (write(fd, b->request, b->request_size) != (ssize_t)b->request_size)
        return false;
    while (used < size && used < sizeof text - 1) {
        const ssize_t got = read(fd, text + used, sizeof text - 1 - used);
        if (got <= 0)
            return false;
        used += (size_t)got;
        text[used] = '\0';
        const char *end = strstr(text, "\r\n\r\n");
        const char *length = strcasestr(text, "\r\nContent-Length:");
        if (end && (!length || length > end))
            return false;
        if (end)
            size = (size_t)(end + 4 - text) + strtoul(length + 17, NULL, 10);
    }
    close(fd);
    b->reply_size = (unsigned)size;
    return used == size && strncmp(text, "HTTP/1.1 200", 12) == 0;
}

/* Returns 77 where the kernel refuses it. */
static int open_ring(struct bare *b)
{
    struct io_uring_params p = {.cq_entries = RING_COMPLETIONS,
                                .flags = IORING_SETUP_CQSIZE | IORING_SETUP_SUBMIT_ALL |
                                         IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN};
    int e = io_uring_queue_init_params(RING_ENTRIES, &b->ring, &p);
    if (e) {
        fprintf(stderr, "io_uring: %s\n", strerror(-e));
        return 77;
    }
    io_uring_register_ring_fd(&b->ring);
    b->buffers = aligned_alloc(4096, BUFFERS * sizeof(struct io_uring_buf));
    b->memory = aligned_alloc(4096, BUFFERS * BUFFER_SIZE);
    if (!b->buffers || !b->memory)
        return 1;
    struct io_uring_buf_reg reg = {
        .ring_addr = (uintptr_t)b->buffers, .ring_entries = BUFFERS, .bgid = BUFFER_GROUP};
    io_uring_buf_ring_init(b->buffers);
    e = io_uring_register_buf_ring(&b->ring, &reg, 0);
    if (e) {
        fprintf(stderr, "provided buffers: %s\n", strerror(-e));
        return 77;
    }
    for (int i = 0; i < BUFFERS; i++)
        io_uring_buf_ring_add(b->buffers, b->memory + (size_t)i * BUFFER_SIZE, BUFFER_SIZE,
                              (unsigned short)i, io_uring_buf_ring_mask(BUFFERS), i);
    io_uring_buf_ring_advance(b->buffers, BUFFERS);
    return 0;
}

static struct io_uring_sqe *next_sqe(struct bare *b)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&b->ring);
    while (!sqe) {
        io_uring_submit(&b->ring);
        sqe = io_uring_get_sqe(&b->ring);
    }
    return sqe;
}

static void receive(struct bare *b, unsigned conn)
{
    struct io_uring_sqe *sqe = next_sqe(b);
    io_uring_prep_recv_multishot(sqe, b->fds[conn], NULL, 0, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = BUFFER_GROUP;
    io_uring_sqe_set_data64(sqe, (uint64_t)conn << 1 | KIND_RECV);
}

static void request(struct bare *b, unsigned conn)
{
    if (b->left == 0)
        return;
    b->left--;
    b->in_flight++;
    b->missing[conn] = b->reply_size;
    struct io_uring_sqe *sqe = next_sqe(b);
    io_uring_prep_send(sqe, b->fds[conn], b->request, b->request_size, MSG_WAITALL | MSG_NOSIGNAL);
    /* The bytes are the same for every request, so nobody need know when they have left. */
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    io_uring_sqe_set_data64(sqe, (uint64_t)conn << 1 | KIND_SEND);
}

/* The conn is of no more use: nothing else is asked of it. */
static void fail(struct bare *b)
{
    b->result.errors++;
    b->in_flight -= b->in_flight != 0;
}

static void received(struct bare *b, unsigned conn, const struct io_uring_cqe *cqe)
{
    if (cqe->res <= 0 && cqe->res != -ENOBUFS) {
        fail(b);
        return;
    }
    if (cqe->res > 0) {
        const unsigned short id = (unsigned short)(cqe->flags >> IORING_CQE_BUFFER_SHIFT);
        io_uring_buf_ring_add(b->buffers, b->memory + (size_t)id * BUFFER_SIZE, BUFFER_SIZE, id,
                              io_uring_buf_ring_mask(BUFFERS), 0);
        io_uring_buf_ring_advance(b->buffers, 1);
        if ((unsigned)cqe->res > b->missing[conn]) {
            fail(b);
            return;
        }
        b->missing[conn] -= (unsigned)cqe->res;
        if (b->missing[conn] == 0) {
            b->result.requests++;
            b->in_flight--;
            request(b, conn);
        }
    }
    if (!(cqe->flags & IORING_CQE_F_MORE))
        receive(b, conn);
}

static void turn(struct bare *b)
{
    struct __kernel_timespec patience = {.tv_nsec = 100000000};
    struct io_uring_cqe *cqe;
    unsigned head, count = 0;
    io_uring_submit_and_wait_timeout(&b->ring, &cqe, 1, &patience, NULL);
    io_uring_for_each_cqe(&b->ring, head, cqe)
    {
        const uint64_t data = io_uring_cqe_get_data64(cqe);
        count++;
        if ((data & 1) == KIND_RECV)
            received(b, (unsigned)(data >> 1), cqe);
        else
            fail(b); /* a send that succeeded posts nothing */
    }
    io_uring_cq_advance(&b->ring, count);
}

static void work(struct bare *b)
{
    for (unsigned i = 0; i < b->job->conc; i++) {
        b->fds[i] = connect_one(b->job);
        receive(b, i);
    }
    const double start = load_clock();
    for (unsigned i = 0; i < b->job->conc; i++)
        request(b, i);
    while (b->in_flight > 0) {
        turn(b);
        if (b->left && load_clock() - start >= b->job->seconds)
            b->left = 0;
    }
    b->result.seconds = load_clock() - start;
}

int main(int argc, char **argv)
{
    static struct bare b;
    struct load_job job;
    if (!load_job_read(argc, argv, "bare", &job))
        return 2;
    if (job.conc > CONC_MAX) {
        fprintf(stderr, "at most %d in flight\n", CONC_MAX);
        return 2;
    }
    b.job = &job;
    b.left = job.requests;
    b.request_size = (unsigned)snprintf(b.request, sizeof b.request,
                                        "GET %.900s HTTP/1.1\r\nHost: %s:%u\r\n\r\n", job.path,
                                        job.address, job.port);
    if (!learn_reply(&b)) {
        fprintf(stderr, "the first reply is not a 200 with Content-Length under 8 KB\n");
        return 1;
    }
    const int status = open_ring(&b);
    if (status)
        return status;
    work(&b);
    return load_report(&b.result, "");
}
