/*
 * Finds what looks like a secret in any text, well-formed or not. Any thread; no state.
 * Errs on the side of hiding: a URL that does not parse may still hold a password.
 */
#include "base/mask.h"
#include "base/span.h"
#include "base/url.h"

#include <string.h>

struct sink {
    char *buf;
    size_t cap;
    size_t len;
};

static void put(struct sink *out, unsigned char c)
{
    if (out->len + 1 < out->cap)
        out->buf[out->len++] = c >= ' ' && c < 0x7f ? (char)c : '?';
}

static void put_stars(struct sink *out)
{
    put(out, '*');
    put(out, '*');
    put(out, '*');
}

/* The secret ends where the word does, or with the line for headers. */
static const struct {
    const char *word;
    bool to_line_end;
} words[] = {
    {"password=", false},     {"passwd=", false},  {"pwd=", false},         {"token=", false},
    {"secret=", false},       {"api_key=", false}, {"apikey=", false},      {"signature=", false},
    {"authorization:", true}, {"cookie:", true},   {"requirepass ", false},
};

static bool begins_with(const unsigned char *text, size_t len, const char *word)
{
    const size_t word_len = strlen(word);
    return len >= word_len &&
           mr_span_is_equal_nocase((moor_span){text, word_len}, (moor_span){word, word_len});
}

/* text is at a secret's word: its length, and the end of the secret after it. 0 = it is not. */
static size_t find_word(const unsigned char *text, size_t len, size_t *out_end)
{
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (!begins_with(text, len, words[i].word))
            continue;
        size_t end = strlen(words[i].word);
        while (end < len && (words[i].to_line_end ? text[end] != '\r' && text[end] != '\n'
                                                  : !strchr(" \t\r\n&;,\"'", text[end])))
            end++;
        *out_end = end;
        return strlen(words[i].word);
    }
    return 0;
}

/*
 * text follows "://". The colon and the last @ of a userinfo: the last before the text's word ends,
 * since people forget to encode '/', '@' and '?' in passwords. False if there is none.
 */
static bool find_password(const unsigned char *text, size_t len, size_t *out_colon, size_t *out_at)
{
    size_t end = 0;
    size_t at = 0;
    size_t colon = 0;
    while (end < len && !strchr(" \t\r\n\"'<>", text[end]))
        end++;
    while (colon < end && text[colon] != ':' && text[colon] != '@' && text[colon] != '/')
        colon++;
    for (size_t i = colon; i < end; i++)
        if (text[i] == '@')
            at = i;
    if (colon == end || text[colon] != ':' || at == 0)
        return false;
    /* host:80/path@x: digits up to the slash are a port. */
    size_t digits = colon + 1;
    while (digits < end && mr_ascii_is_digit(text[digits]))
        digits++;
    if (digits > colon + 1 && digits < end && strchr("/?#", text[digits]))
        return false;
    *out_colon = colon;
    *out_at = at;
    return true;
}

const char *mr_mask(moor_span text, char *buf, size_t cap)
{
    const unsigned char *t = text.base;
    struct sink out = {buf, cap, 0};
    for (size_t i = 0; i < text.len;) {
        size_t end;
        size_t colon;
        const size_t word = find_word(t + i, text.len - i, &end);
        if (word) {
            for (size_t j = 0; j < word; j++)
                put(&out, t[i + j]);
            put_stars(&out);
            i += end;
        } else if (begins_with(t + i, text.len - i, "://") &&
                   find_password(t + i + 3, text.len - i - 3, &colon, &end)) {
            for (size_t j = 0; j < 3 + colon + 1; j++)
                put(&out, t[i + j]);
            put_stars(&out);
            i += 3 + end;
        } else {
            put(&out, t[i++]);
        }
    }
    if (cap)
        buf[out.len] = 0;
    return buf;
}

const char *mr_url_masked(moor_span url, char *buf, size_t cap)
{
    return mr_mask(url, buf, cap);
}
