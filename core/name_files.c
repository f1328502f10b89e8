/*
 * Reads the hosts file and resolv.conf. At creation on the caller's thread, later on a thread of
 * its own that sleeps between looks at the files' dates. Never runs on a loop.
 */
#include "core/name_files.h"

#include "base/assert.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* The deepest thing on the thread's stack is a page of path resolution; the default is 8 MiB. */
#define STACK_BYTES ((size_t)128 << 10)

static moor_err copy_texts(struct mr_name_files *f, const struct mr_name_files_config *c);
static moor_err read_hosts(struct mr_name_files *f);
static moor_err read_resolv(struct mr_name_files *f);
static moor_err start_thread(struct mr_name_files *f);
static void *watch_files(void *arg);

moor_err mr_name_files_init(struct mr_name_files *f, struct mr_heap *heap,
                            const struct mr_name_files_config *c)
{
    *f = (struct mr_name_files){.heap = heap, .stop_fd = -1};
    mr_lock_init(&f->lock);
    moor_err err = copy_texts(f, c);
    if (!err)
        err = read_hosts(f);
    if (!err)
        err = read_resolv(f);
    if (!err && c->check_ms > 0)
        err = start_thread(f);
    if (err)
        mr_name_files_fini(f);
    return err;
}

void mr_name_files_fini(struct mr_name_files *f)
{
    if (f->stop_fd >= 0) {
        /* An eventfd takes any write below its maximum. */
        int failed = eventfd_write(f->stop_fd, 1);
        MR_ASSERT(!failed);
        pthread_join(f->thread, NULL);
        close(f->stop_fd);
    }
    mr_hosts_unref(f->hosts);
    mr_dns_config_unref(f->dns);
    mr_heap_free(f->heap, f->texts, f->texts_bytes);
    mr_lock_fini(&f->lock);
}

struct mr_hosts *mr_name_files_hosts(struct mr_name_files *f)
{
    mr_lock_lock(&f->lock);
    struct mr_hosts *h = mr_hosts_ref(f->hosts);
    mr_lock_unlock(&f->lock);
    return h;
}

struct mr_dns_config *mr_name_files_dns(struct mr_name_files *f)
{
    mr_lock_lock(&f->lock);
    struct mr_dns_config *c = mr_dns_config_ref(f->dns);
    mr_lock_unlock(&f->lock);
    return c;
}

static moor_err copy_texts(struct mr_name_files *f, const struct mr_name_files_config *c)
{
    const char *from[] = {c->hosts_path, c->resolv_path, c->servers ? c->servers : ""};
    const char **to[] = {&f->config.hosts_path, &f->config.resolv_path, &f->config.servers};
    size_t bytes = 0;
    for (size_t i = 0; i < 3; i++)
        bytes += strlen(from[i]) + 1;
    char *at = mr_heap_alloc(f->heap, bytes);
    if (!at)
        return MOOR_ENOMEM;
    f->texts = at;
    f->texts_bytes = bytes;
    f->config = *c;
    for (size_t i = 0; i < 3; i++) {
        size_t len = strlen(from[i]) + 1;
        *to[i] = memcpy(at, from[i], len);
        at += len;
    }
    return MOOR_OK;
}

static struct mr_file_mark mark_of(const struct stat *s)
{
    return (struct mr_file_mark){s->st_mtim, s->st_size, s->st_ino, s->st_dev};
}

static bool is_same_mark(const struct mr_file_mark *a, const struct mr_file_mark *b)
{
    return a->changed.tv_sec == b->changed.tv_sec && a->changed.tv_nsec == b->changed.tv_nsec &&
           a->size == b->size && a->inode == b->inode && a->device == b->device;
}

static bool has_changed(const char *path, const struct mr_file_mark *mark)
{
    struct stat s;
    struct mr_file_mark now = {{0, 0}, 0, 0, 0};
    if (path[0] && stat(path, &s) == 0)
        now = mark_of(&s);
    return !is_same_mark(&now, mark);
}

/* The mark is taken before the reading: a write in between is then seen as a change at the next
 * look. *text_out is *bytes_out long and the caller's, NULL for a file that is empty or not there.
 */
static moor_err read_file(struct mr_heap *heap, const char *path, struct mr_file_mark *out_mark,
                          char **out_text, size_t *out_bytes)
{
    *out_mark = (struct mr_file_mark){{0, 0}, 0, 0, 0};
    *out_text = NULL;
    *out_bytes = 0;
    struct stat s;
    int fd = path[0] ? open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY) : -1;
    if (fd < 0)
        return MOOR_OK;
    if (fstat(fd, &s) != 0) {
        close(fd);
        return MOOR_OK;
    }
    *out_mark = mark_of(&s);
    if (!S_ISREG(s.st_mode) || s.st_size <= 0) {
        close(fd);
        return MOOR_OK;
    }
    size_t bytes = (size_t)s.st_size < MR_NAME_FILE_MAX ? (size_t)s.st_size : MR_NAME_FILE_MAX;
    char *text = mr_heap_alloc(heap, bytes);
    if (!text) {
        close(fd);
        return MOOR_ENOMEM;
    }
    size_t len = 0;
    while (len < bytes) {
        ssize_t n = read(fd, text + len, bytes - len);
        if (n == 0 || (n < 0 && errno != EINTR))
            break;
        len += n > 0 ? (size_t)n : 0;
    }
    close(fd);
    memset(text + len, '\n', bytes - len); /* it shrank meanwhile, or cannot be read */
    *out_text = text;
    *out_bytes = bytes;
    return MOOR_OK;
}

static moor_err read_hosts(struct mr_name_files *f)
{
    struct mr_file_mark mark;
    struct mr_hosts *fresh;
    char *text;
    size_t bytes;
    MR_TRY(read_file(f->heap, f->config.hosts_path, &mark, &text, &bytes));
    moor_err err = mr_hosts_parse(f->heap, text ? text : "", bytes, &fresh);
    mr_heap_free(f->heap, text, bytes);
    if (err)
        return err;
    f->hosts_mark = mark;
    mr_lock_lock(&f->lock);
    struct mr_hosts *old = f->hosts;
    f->hosts = fresh;
    mr_lock_unlock(&f->lock);
    mr_hosts_unref(old);
    return MOOR_OK;
}

static moor_err read_resolv(struct mr_name_files *f)
{
    struct mr_file_mark mark;
    struct mr_dns_config *fresh;
    char *text;
    size_t bytes;
    MR_TRY(read_file(f->heap, f->config.resolv_path, &mark, &text, &bytes));
    moor_err err = mr_dns_config_create(f->heap, (moor_span){text, bytes}, f->config.servers,
                                        f->config.timeout_ms, f->config.tries, &fresh);
    mr_heap_free(f->heap, text, bytes);
    if (err)
        return err;
    f->resolv_mark = mark;
    /* A file rewritten with the same contents must not cost every shard its channel. Only this
     * thread writes f->dns, so reading it needs no lock here. */
    if (f->dns && mr_dns_config_is_equal(f->dns, fresh)) {
        mr_dns_config_unref(fresh);
        return MOOR_OK;
    }
    mr_lock_lock(&f->lock);
    struct mr_dns_config *old = f->dns;
    f->dns = fresh;
    mr_lock_unlock(&f->lock);
    mr_dns_config_unref(old);
    if (old && f->config.dns_changed)
        f->config.dns_changed(f->config.ctx);
    return MOOR_OK;
}

static moor_err start_thread(struct mr_name_files *f)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0)
        return MOOR_ENOFILES;
    pthread_attr_t attr;
    sigset_t all, before;
    if (pthread_attr_init(&attr) != 0) {
        close(fd);
        return MOOR_ENOMEM;
    }
    /* A refused stack size leaves the default, which works as well. */
    (void)pthread_attr_setstacksize(&attr, STACK_BYTES);
    f->stop_fd = fd;
    /* The host program's signals are not for our thread. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&f->thread, &attr, watch_files, f);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    if (!failed)
        return MOOR_OK;
    f->stop_fd = -1;
    close(fd);
    return MOOR_ENOMEM;
}

static void *watch_files(void *arg)
{
    struct mr_name_files *f = arg;
    pthread_setname_np(pthread_self(), "mooring-names");
    struct pollfd stop = {.fd = f->stop_fd, .events = POLLIN};
    for (;;) {
        int n = poll(&stop, 1, f->config.check_ms);
        if (n > 0)
            return NULL;
        /* Out of memory: what was read before stands, the mark too, so the next look tries again.
         */
        if (has_changed(f->config.hosts_path, &f->hosts_mark))
            (void)!read_hosts(f);
        if (has_changed(f->config.resolv_path, &f->resolv_mark))
            (void)!read_resolv(f);
    }
}
