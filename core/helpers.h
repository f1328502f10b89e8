/*
 * A few threads for what can only block: agents, key files, credentials. Made when first needed, ended with
 * the runtime. Submit: any thread, O(1), allocates nothing. Jobs run in order of arrival.
 */
#ifndef MR_CORE_HELPERS_H
#define MR_CORE_HELPERS_H

#include "base/list.h"

#include <mooring/error.h>

#include <stdbool.h>
#include <stdint.h>

struct moor_runtime;
struct mr_helpers;

/* Storage of the submitter's, until done() has begun. */
struct mr_helper_job {
    struct mr_list link;
    void (*run)(struct mr_helper_job *job);  /* on a helper; may block */
    void (*done)(struct mr_helper_job *job); /* on the helper, after run: the last touch */
};

/* ENOMEM, ENOFILES-like failures of thread creation where there is no thread at all: the job was not kept. */
MOOR_NODISCARD moor_err mr_helpers_submit(struct moor_runtime *r, struct mr_helper_job *job);
/* Waits for the jobs that run and ends the threads. The runtime's end. */
void mr_helpers_end(struct moor_runtime *r);

#endif
