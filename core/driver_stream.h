/*
 * Stream drivers: byte streams whose conns a driver prepares, resets and judges. The conn's shard.
 */
#ifndef MR_CORE_DRIVER_STREAM_H
#define MR_CORE_DRIVER_STREAM_H

#include "core/conn.h"

#include <mooring/driver.h>

struct mr_loop;
struct mr_route;

/* A stream driver's pool's wiring. */
struct mr_driver_wiring {
    struct mr_route *route;
};

extern const struct mr_protocol mr_driver_stream_protocol;

/* The link of a stream driver's conn, kept while a lease has it; NULL: another protocol's. The conn's shard. */
moor_link *mr_driver_stream_ref(struct mr_conn *c);
void mr_driver_stream_unref(moor_link *l);
/* While it is prepared; else NULL. */
const moor_target *mr_driver_stream_target(const moor_link *l);
/* The link of a stream lease that is held; else NULL. Any thread. */
moor_link *mr_driver_stream_link(moor_lease lease);
/* For core/link_task.c: a link of this kind. */
struct mr_loop *mr_driver_stream_loop(const moor_link *l);
void mr_driver_stream_over(moor_link *l, moor_task_kind task, bool is_well);
/* A report or a reset said that it is of no more use. */
bool mr_driver_stream_is_worn(const struct mr_conn *c);
/* A lease gives its conn back. False: the driver resets it first, and releases it itself. */
bool mr_driver_stream_returns(struct mr_conn *c, moor_release_how how);

#endif
