/*
 * Lines and JSON members that the reports of load and pool have in common.
 */
#ifndef TOOL_FIGURES_H
#define TOOL_FIGURES_H

#include <mooring/types.h>

/* 0 where there is nothing. */
double figures_ratio(uint64_t a, uint64_t b);
/* "  name           p50 .., p99 .., p99.9 .., max ..". */
void figures_print(const char *name, moor_ns p50, moor_ns p99, moor_ns p999, moor_ns max);
/* "key": {"p50": .., ..}, in microseconds, with a comma behind it. */
void figures_print_json(const char *key, moor_ns p50, moor_ns p99, moor_ns p999, moor_ns max);
/* "key": bytes, null if it is below 0; then `after`. */
void figures_print_bytes_json(const char *key, int64_t bytes, const char *after);
/* "text", escaped. */
void figures_print_text_json(const char *text);

#endif
