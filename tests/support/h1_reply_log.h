/*
 * Runs bytes through the reply parser, cut as asked, and writes down every event as text, so that a
 * test compares one string and two cuts can be compared with each other. Every piece is a block of
 * its own, freed after its calls: a sanitizer sees each read outside it and each span kept too long.
 */
#ifndef TESTS_H1_REPLY_LOG_H
#define TESTS_H1_REPLY_LOG_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "h1/reply.h"

struct h1_feed {
    const uint8_t *bytes;
    size_t len;
    const struct mr_h1_limits *limits;
    unsigned asked;
    bool eof;           /* the peer closes after the last byte */
    size_t first, step; /* length of the first piece, of the others; 0 = all */
    size_t allocs_max;  /* allocations granted before NULL */
};

struct h1_heap {
    void *blocks[256];
    size_t count, max;
};

static void *h1_heap_alloc(void *ctx, size_t size)
{
    struct h1_heap *const heap = ctx;
    if (heap->count >= heap->max || heap->count == sizeof heap->blocks / sizeof *heap->blocks)
        return NULL;
    void *const block = malloc(size);
    heap->blocks[heap->count++] = block;
    return block;
}

static void h1_log_bytes(FILE *log, moor_span s)
{
    const uint8_t *const p = s.base;
    for (size_t i = 0; i < s.len; i++) {
        if (p[i] >= 0x20 && p[i] < 0x7f && p[i] != '\\')
            fputc(p[i], log);
        else
            fprintf(log, "\\%02x", p[i]);
    }
}

static void h1_log_fields(FILE *log, const struct mr_h1_head *h)
{
    fputs(" [", log);
    for (size_t i = 0; i < h->header_count; i++) {
        fputs(i ? "; " : "", log);
        h1_log_bytes(log, h->headers[i].name);
        fputc('=', log);
        h1_log_bytes(log, h->headers[i].value);
    }
    fputs("]", log);
}

static void h1_log_head(FILE *log, const struct mr_h1_head *h, const char *kind)
{
    static const char *const bodies[] = {"none", "length", "chunked", "eof"};
    fprintf(log, "%s %d/%d '", kind, h->status, h->minor);
    h1_log_bytes(log, h->reason);
    fprintf(log, "' %s", bodies[h->body]);
    if (h->content_length != MR_H1_NO_LENGTH)
        fprintf(log, " %llu", (unsigned long long)h->content_length);
    if (h->keep_alive_s)
        fprintf(log, " idle=%u", h->keep_alive_s);
    h1_log_fields(log, h);
}

static const char *h1_fault_name(enum mr_h1_fault f)
{
    static const char *const names[] = {
#define X(name, err, text) #name,
        MR_H1_FAULTS(X)
#undef X
    };
    return names[f];
}

static void h1_demand(bool holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "parser contract broken: %s\n", what);
        abort();
    }
}

/* True when the reply is over, one way or the other. body_open joins the pieces of one body. */
static bool h1_log_event(FILE *log, struct mr_h1_reply *r, enum mr_h1_event event,
                         const struct mr_h1_out *out, bool *body_open)
{
    if (event == MR_H1_BODY) {
        h1_demand(out->body.len > 0, "a body event without bytes");
        fputs(*body_open ? "" : " | body ", log);
        h1_log_bytes(log, out->body);
        *body_open = true;
        return false;
    }
    if (event == MR_H1_NEED_MORE)
        return false;
    *body_open = false;
    if (event == MR_H1_HEAD || event == MR_H1_HEAD_1XX) {
        h1_log_head(log, &r->head, event == MR_H1_HEAD ? "head" : "1xx");
        fputs(event == MR_H1_HEAD ? "" : " | ", log);
    } else if (event == MR_H1_TRAILERS) {
        fputs(" | trailers", log);
        h1_log_fields(log, &r->head);
    } else if (event == MR_H1_DONE) {
        fprintf(log, " | done%s", r->head.upgraded ? "^" : r->head.keep_alive ? "+" : "-");
        return true;
    } else {
        h1_demand(out->what && out->err == mr_h1_fault_err(out->fault), "an error without reason");
        h1_demand(!r->head.keep_alive, "a conn kept alive after an error");
        fprintf(log, " | error %s", h1_fault_name(out->fault));
        return true;
    }
    return false;
}

/* Feeds one piece; returns how much of it was used and whether the reply is over. */
static size_t h1_log_piece(FILE *log, struct mr_h1_reply *r, const uint8_t *piece, size_t len,
                           bool *over, bool *body_open)
{
    size_t used = 0;
    for (;;) {
        struct mr_h1_out out = {0};
        size_t consumed = SIZE_MAX;
        const enum mr_h1_event event =
            mr_h1_reply_next(r, piece + used, len - used, &consumed, &out);
        h1_demand(consumed <= len - used, "more consumed than given");
        h1_demand(event == MR_H1_DONE || event == MR_H1_ERROR || consumed > 0 || used == len,
                  "an event without progress");
        used += consumed;
        *over = h1_log_event(log, r, event, &out, body_open);
        if (event == MR_H1_NEED_MORE)
            h1_demand(used == len, "more wanted before all was consumed");
        if (*over || event == MR_H1_NEED_MORE)
            return used;
    }
}

/* The events as text; the caller frees it. */
static char *h1_log_of(const struct h1_feed *f)
{
    struct h1_heap heap = {.max = f->allocs_max ? f->allocs_max - 1 : SIZE_MAX};
    struct mr_h1_reply *const r = malloc(sizeof *r);
    char *text = NULL;
    size_t text_len = 0;
    FILE *const log = open_memstream(&text, &text_len);
    bool over = false, body_open = false;
    size_t done = 0, want = f->first;

    memset(r, 0xa5, sizeof *r);
    mr_h1_reply_init(r, f->limits, f->asked, h1_heap_alloc, &heap);
    h1_demand(mr_h1_reply_is_untouched(r), "a fresh reply is untouched");
    while (done < f->len && !over) {
        const size_t left = f->len - done;
        const size_t len = want == 0 || want > left ? left : want;
        uint8_t *const piece = malloc(len);
        memcpy(piece, f->bytes + done, len);
        const size_t used = h1_log_piece(log, r, piece, len, &over, &body_open);
        free(piece);
        done += used;
        want = f->step;
        h1_demand(!mr_h1_reply_is_untouched(r), "a byte was seen");
    }
    if (!over && f->eof) {
        struct mr_h1_out out = {0};
        over = h1_log_event(log, r, mr_h1_reply_eof(r, &out), &out, &body_open);
    } else if (!over) {
        fputs(" | more", log);
    }
    if (over && r->head.status && done < f->len && r->fault == MR_H1_FAULT_NONE) {
        fputs(" | left ", log);
        h1_log_bytes(log, (moor_span){f->bytes + done, f->len - done});
    }
    fclose(log);
    for (size_t i = 0; i < heap.count; i++)
        free(heap.blocks[i]);
    free(r);
    return text;
}

#endif
