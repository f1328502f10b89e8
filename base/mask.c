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

/* The first colon that may separate user and password; `end` if there is none. */
static size_t find_colon(const unsigned char *text, size_t end)
{
    size_t i = 0;
    if (end && text[0] == '[')
        while (i < end && text[i] != ']')
            i++;
    while (i < end && text[i] != ':' && text[i] != '@' && text[i] != '/')
        i++;
    return i < end && text[i] == ':' ? i : end;
}

/*
 * text follows "://" and ends where the URL may. Finds the password: up to the last @, since people
 * forget to encode '/', '@' and '?' in it; without an @ up to the end, since the text may have been
 * cut. Not what is a port: digits up to the end or a slash.
 */
static bool find_password(const unsigned char *text, size_t end, size_t *out_colon, size_t *out_end)
{
    const size_t colon = find_colon(text, end);
    size_t digits = colon + 1;
    if (colon + 1 >= end)
        return false;
    while (digits < end && mr_ascii_is_digit(text[digits]))
        digits++;
    if (digits > colon + 1 && (digits == end || strchr("/?#", text[digits])))
        return false;
    *out_colon = colon;
    *out_end = end;
    for (size_t i = colon; i < end; i++)
        if (text[i] == '@')
            *out_end = i;
    return true;
}

/* In running text a URL ends at a blank or a quote. */
static size_t url_end(const unsigned char *text, size_t len)
{
    size_t end = 0;
    while (end < len && !strchr(" \t\r\n\"'<>", text[end]))
        end++;
    return end;
}

static const char *mask(moor_span text, bool is_url, char *buf, size_t cap)
{
    const unsigned char *t = text.base;
    struct sink out = {buf, cap, 0};
    for (size_t i = 0; i < text.len;) {
        const size_t left = text.len - i;
        size_t end;
        size_t colon;
        const size_t word = find_word(t + i, left, &end);
        if (word) {
            for (size_t j = 0; j < word; j++)
                put(&out, t[i + j]);
            put_stars(&out);
            i += end;
        } else if (begins_with(t + i, left, "://") &&
                   find_password(t + i + 3, is_url ? left - 3 : url_end(t + i + 3, left - 3),
                                 &colon, &end)) {
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

const char *mr_mask(moor_span text, char *buf, size_t cap)
{
    return mask(text, false, buf, cap);
}

const char *mr_url_masked(moor_span url, char *buf, size_t cap)
{
    return mask(url, true, buf, cap);
}
