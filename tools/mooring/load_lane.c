/*
 * The lanes of a load: closed loops, one per shard, that submit the next request from inside
 * on_done. Everything here but creation and waking runs on the lane's shard. Lanes share the pool,
 * a counter of requests left, and nothing else.
 */
#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TICKET_BATCH_MAX = 64 };

static void fill(struct lane *lane);

/* ---- one request ---- */

static void on_head(void *user, const moor_http_head *h)
{
    struct flight *f = user;
    f->status = h->status;
}

static void on_chunk(void *user, moor_chunk c)
{
    (void)user;
    moor_chunk_return(c);
}

static void count_fault(struct lane *lane, const moor_fault *fault, const moor_why *why)
{
    const unsigned e = (unsigned)fault->err;
    lane->errors[e < ERR_COUNT - 1 ? e : ERR_COUNT - 1]++;
    lane->failed_in_row++;
    if (lane->has_fault)
        return;
    lane->has_fault = true;
    cli_fault_line(fault, why, lane->fault_line, sizeof lane->fault_line);
}

static void on_done(void *user, const moor_http_done *d)
{
    struct flight *f = user;
    struct lane *lane = f->lane;
    struct load *l = lane->load;
    f->is_flying = false;
    f->next_free = lane->free_flights;
    lane->free_flights = f;
    lane->flying--;
    if (d->fault.err == MOOR_OK) {
        lane->requests++;
        lane->bytes_down += d->bytes_down;
        lane->failed_in_row = 0;
        lane->status_4xx += f->status >= 400 && f->status < 500;
        lane->status_5xx += f->status >= 500;
        latency_record(&lane->latency, f->due_ns ? now_ns() - f->due_ns : d->total);
    } else if (d->fault.err == MOOR_ECANCELED &&
               atomic_load_explicit(&l->is_canceling, memory_order_relaxed)) {
        lane->unfinished++;
    } else {
        count_fault(lane, &d->fault, d->why);
    }
    fill(lane);
}

static const moor_http_handlers handlers = {
    .size = sizeof handlers,
    .on_head = on_head,
    .on_chunk = on_chunk,
    .on_done = on_done,
};

static bool submit(struct lane *lane, int64_t due_ns)
{
    struct flight *f = lane->free_flights;
    f->due_ns = due_ns;
    f->status = 0;
    const moor_err e = moor_http_send(lane->load->pool, &lane->load->request, &handlers, f, &f->op);
    if (e != MOOR_OK) {
        const moor_fault fault = {.err = e};
        count_fault(lane, &fault, NULL);
        return false;
    }
    lane->free_flights = f->next_free;
    f->is_flying = true;
    lane->flying++;
    return true;
}

/* ---- what to do next ---- */

/* Batches keep shards off each other's cache line; small ones near the end keep them equally busy.
 */
static bool take_ticket(struct lane *lane)
{
    struct load *l = lane->load;
    if (lane->tickets == 0) {
        const int64_t share =
            atomic_load_explicit(&l->tickets, memory_order_relaxed) / (8 * (int64_t)l->lane_count);
        const int64_t batch = share < 1 ? 1 : (share > TICKET_BATCH_MAX ? TICKET_BATCH_MAX : share);
        const int64_t left = atomic_fetch_sub_explicit(&l->tickets, batch, memory_order_relaxed);
        lane->tickets = (uint64_t)(left <= 0 ? 0 : (left < batch ? left : batch));
    }
    if (lane->tickets == 0)
        return false;
    lane->tickets--;
    return true;
}

static int64_t due_time(const struct load *l, uint64_t number)
{
    return l->start_ns + (int64_t)((double)number * l->interval_ns);
}

/* Whether the lane will never submit again. */
static bool is_out_of_work(struct lane *lane)
{
    struct load *l = lane->load;
    return atomic_load_explicit(&l->is_stopping, memory_order_relaxed) ||
           (lane->tickets == 0 && atomic_load_explicit(&l->tickets, memory_order_relaxed) <= 0);
}

static void finish(struct lane *lane)
{
    lane->is_finished = true;
    /* Release: main reads the lane's counters after it has seen the count. */
    atomic_fetch_add_explicit(&lane->load->finished_lanes, 1, memory_order_release);
    sem_post(&lane->load->news);
}

static void fill(struct lane *lane)
{
    struct load *l = lane->load;
    const bool is_paced = l->interval_ns > 0;
    /* Where every request fails at once, the next tick is soon enough: a loop here would starve the
     * shard's other work and prove nothing. */
    while (lane->free_flights && lane->failed_in_row <= lane->flight_count &&
           !atomic_load_explicit(&l->is_stopping, memory_order_relaxed)) {
        int64_t due = 0;
        if (is_paced) {
            due = due_time(l, lane->next_paced);
            if (due > now_ns())
                break;
        }
        if (!take_ticket(lane))
            break;
        lane->next_paced += l->lane_count;
        if (!submit(lane, due))
            break;
    }
    if (!lane->is_finished && lane->flying == 0 && is_out_of_work(lane))
        finish(lane);
}

static void run_task(void *user)
{
    struct lane *lane = user;
    lane->failed_in_row = 0;
    if (atomic_load_explicit(&lane->load->is_canceling, memory_order_relaxed))
        for (uint32_t i = 0; i < lane->flight_count; i++)
            if (lane->flights[i].is_flying)
                moor_cancel(lane->flights[i].op);
    if (!lane->is_finished)
        fill(lane);
}

/* ---- from the main thread ---- */

bool load_lanes_create(struct load *l, moor_runtime *r)
{
    const uint32_t shards = moor_runtime_shard_count(r);
    const uint32_t conc = l->plan.conc;
    l->lane_count = shards < conc ? shards : conc;
    const size_t bytes = l->lane_count * sizeof *l->lanes;
    l->lanes = aligned_alloc(_Alignof(struct lane), bytes);
    if (!l->lanes)
        return false;
    memset(l->lanes, 0, bytes);
    for (uint32_t i = 0; i < l->lane_count; i++) {
        struct lane *lane = &l->lanes[i];
        lane->load = l;
        lane->shard = moor_shard_at(r, i);
        lane->task = (moor_task){.run = run_task, .user = lane};
        lane->next_paced = i;
        lane->flight_count = conc / l->lane_count + (i < conc % l->lane_count);
        lane->flights = calloc(lane->flight_count, sizeof *lane->flights);
        if (!lane->flights)
            return false;
        for (uint32_t k = 0; k < lane->flight_count; k++) {
            lane->flights[k].lane = lane;
            lane->flights[k].next_free = lane->free_flights;
            lane->free_flights = &lane->flights[k];
        }
    }
    return true;
}

void load_lanes_destroy(struct load *l)
{
    for (uint32_t i = 0; l->lanes && i < l->lane_count; i++)
        free(l->lanes[i].flights);
    free(l->lanes);
    l->lanes = NULL;
}

static void wake(struct lane *lane)
{
    /* EBUSY: it is on its way already. ECLOSED cannot be: the runtime outlives the run. */
    const moor_err e = moor_post(lane->shard, &lane->task);
    (void)e;
}

void load_wake_all(struct load *l)
{
    for (uint32_t i = 0; i < l->lane_count; i++)
        wake(&l->lanes[i]);
}

uint64_t load_wake_due(struct load *l, uint64_t from, int64_t now)
{
    const uint64_t due = (uint64_t)((double)(now - l->start_ns) / l->interval_ns) + 1;
    const uint64_t lanes = due > from ? due - from : 0;
    for (uint64_t i = 0; i < lanes && i < l->lane_count; i++)
        wake(&l->lanes[(from + i) % l->lane_count]);
    return due > from ? due : from;
}
