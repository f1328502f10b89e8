/*
 * The hosts file and resolv.conf: read at creation, and again by a thread of their own when they
 * change. Loops take references of what was read last, under one short lock; they never touch a
 * file.
 */
#ifndef MR_CORE_NAME_FILES_H
#define MR_CORE_NAME_FILES_H

#include "base/lock.h"
#include "core/dns_config.h"
#include "core/hosts.h"

#include <pthread.h>
#include <sys/stat.h>

/* Larger files are cut off here: a hosts file of half a million blocked names still fits. */
#define MR_NAME_FILE_MAX ((size_t)16 << 20)

struct mr_name_files_config {
    const char *hosts_path; /* "" = none */
    const char *resolv_path;
    const char *servers; /* this and the next two: see mr_dns_config_create */
    uint32_t timeout_ms;
    uint32_t tries;
    int check_ms; /* 0 = never again */
    /* On the files' thread, after another resolv.conf was put in place. */
    void (*dns_changed)(void *ctx);
    void *ctx;
};

/* What tells that a file is another one than before. */
struct mr_file_mark {
    struct timespec changed;
    off_t size;
    ino_t inode;
    dev_t device;
};

struct mr_name_files {
    struct mr_heap *heap;               /* shared */
    struct mr_name_files_config config; /* texts are copies */
    size_t texts_bytes;
    char *texts;
    struct mr_file_mark hosts_mark, resolv_mark; /* the reading thread's */
    pthread_t thread;
    int stop_fd; /* eventfd that ends the thread; -1 = there is none */
    struct mr_lock lock;
    struct mr_hosts *hosts;    /* under the lock */
    struct mr_dns_config *dns; /* under the lock */
};

/* EINVAL: servers is not a list of addresses. A file that is not there is an empty one. */
MOOR_NODISCARD moor_err mr_name_files_init(struct mr_name_files *f, struct mr_heap *heap,
                                           const struct mr_name_files_config *c);
void mr_name_files_fini(struct mr_name_files *f);
/* A reference each. Any thread. */
struct mr_hosts *mr_name_files_hosts(struct mr_name_files *f);
struct mr_dns_config *mr_name_files_dns(struct mr_name_files *f);

#endif
