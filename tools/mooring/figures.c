/*
 * Times, parts and sizes as the reports show them. Pure but for writing to standard output. Main thread.
 */
#include "figures.h"

#include "cli.h"

#include <stdio.h>

enum { TIME_CAP = 24 };

double figures_ratio(uint64_t a, uint64_t b)
{
    return b > 0 ? (double)a / (double)b : 0;
}

void figures_print(const char *name, moor_ns p50, moor_ns p99, moor_ns p999, moor_ns max)
{
    char a[TIME_CAP], b[TIME_CAP], c[TIME_CAP], d[TIME_CAP];
    printf("  %-14s p50 %s, p99 %s, p99.9 %s, max %s\n", name, cli_time(p50, a, sizeof a),
           cli_time(p99, b, sizeof b), cli_time(p999, c, sizeof c), cli_time(max, d, sizeof d));
}

void figures_print_json(const char *key, moor_ns p50, moor_ns p99, moor_ns p999, moor_ns max)
{
    printf("\"%s\": {\"p50\": %.1f, \"p99\": %.1f, \"p999\": %.1f, \"max\": %.1f}, ", key,
           (double)p50 / 1e3, (double)p99 / 1e3, (double)p999 / 1e3, (double)max / 1e3);
}

void figures_print_bytes_json(const char *key, int64_t bytes, const char *after)
{
    if (bytes < 0)
        printf("\"%s\": null%s", key, after);
    else
        printf("\"%s\": %lld%s", key, (long long)bytes, after);
}

/* The length of the UTF-8 sequence at s, 0 if it is none: a server may answer in any encoding. */
static size_t sequence_len(const unsigned char *s)
{
    const size_t len = *s < 0x80 ? 1 : *s >= 0xf0 ? 4 : *s >= 0xe0 ? 3 : *s >= 0xc2 ? 2 : 0;
    if (*s > 0xf4 || (*s == 0xe0 && s[1] < 0xa0) || (*s == 0xed && s[1] > 0x9f) ||
        (*s == 0xf0 && s[1] < 0x90) || (*s == 0xf4 && s[1] > 0x8f))
        return 0;
    for (size_t i = 1; i < len; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    return len;
}

void figures_print_text_json(const char *text)
{
    putchar('"');
    for (const unsigned char *s = (const unsigned char *)text; *s;) {
        const size_t len = sequence_len(s);
        if (len == 0 || *s < 0x20)
            printf("\\u%04x", len ? *s : 0xfffdU);
        else
            printf("%s%.*s", *s == '"' || *s == '\\' ? "\\" : "", (int)len, (const char *)s);
        s += len ? len : 1;
    }
    putchar('"');
}
