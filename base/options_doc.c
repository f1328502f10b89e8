/*
 * Prints the table of options: for a terminal, and as the generated part of docs/tuning.md.
 * Any thread; output goes to the caller's function in pieces.
 */
#include "base/options.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct output {
    void (*write)(void *user, const char *text, size_t len);
    void *user;
};

__attribute__((format(printf, 2, 3))) static void put(const struct output *out, const char *format,
                                                      ...)
{
    char text[768]; /* the longest row is below 500 */
    va_list args;
    va_start(args, format);
    const int len = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (len > 0)
        out->write(out->user, text, (size_t)len < sizeof text ? (size_t)len : sizeof text - 1);
}

static const char *default_of(const struct mr_option *o, char *buf, size_t cap)
{
    const struct mr_option_value v = {o->default_number, o->default_text};
    mr_option_format(o, v, buf, cap);
    return buf[0] ? buf : "(none)";
}

static void write_text(const struct output *out, enum mr_option_scope scope)
{
    char low[96];
    char range[96];
    for (size_t i = 0; i < mr_option_count; i++) {
        const struct mr_option *o = &mr_options[i];
        if (o->scope != scope)
            continue;
        put(out, "  MOORING_%-28s %s  (%s)\n", o->variable, default_of(o, low, sizeof low),
            mr_option_range(o, range, sizeof range));
        put(out, "      %s\n", o->help);
    }
}

static void write_presets_text(const struct output *out)
{
    const char *last = "";
    for (size_t i = 0; i < mr_preset_count; i++) {
        const struct mr_preset_value *p = &mr_presets[i];
        if (strcmp(last, p->preset) != 0)
            put(out, "%s  %s:", *last ? "\n" : "", p->preset);
        put(out, " %s=%s", p->variable, p->value);
        last = p->preset;
    }
    put(out, "\n");
}

static void write_table(const struct output *out, enum mr_option_scope scope)
{
    char low[96];
    char range[96];
    put(out, "| variable | field | default | range | effect |\n|---|---|---|---|---|\n");
    for (size_t i = 0; i < mr_option_count; i++) {
        const struct mr_option *o = &mr_options[i];
        if (o->scope != scope)
            continue;
        mr_option_range(o, range, sizeof range);
        /* '|' ends a cell of a table. */
        for (char *bar = strchr(range, '|'); bar; bar = strchr(bar, '|'))
            *bar = '/';
        put(out, "| `MOORING_%s` | `%s` | %s | %s | %s |\n", o->variable, o->field,
            default_of(o, low, sizeof low), range, o->help);
    }
}

static void write_markdown(const struct output *out)
{
    put(out, "## Options of the runtime\n\n");
    write_table(out, MR_OPTION_RUNTIME);
    put(out, "\n## Options of a pool\n\n"
             "`MOORING_<OPTION>` sets every pool, `MOORING_POOL_<NAME>_<OPTION>` one.\n\n");
    write_table(out, MR_OPTION_POOL);
    put(out, "\n## Presets\n\n`MOORING_PRESET` changes what is still at its default.\n\n"
             "| preset | sets |\n|---|---|");
    for (size_t i = 0; i < mr_preset_count; i++) {
        const struct mr_preset_value *p = &mr_presets[i];
        if (i == 0 || strcmp(p->preset, p[-1].preset) != 0)
            put(out, "%s\n| %s |", i ? " |" : "", p->preset);
        put(out, " `%s=%s`", p->variable, p->value);
    }
    put(out, " |\n\n## From symptom to option\n\n| you see | look at |\n|---|---|\n");
    for (size_t i = 0; i < mr_option_count; i++)
        if (*mr_options[i].symptom)
            put(out, "| %s | `MOORING_%s` |\n", mr_options[i].symptom, mr_options[i].variable);
}

void moor_options_write(moor_options_format format,
                        void (*write)(void *user, const char *text, size_t len), void *user)
{
    const struct output out = {write, user};
    if (format == MOOR_OPTIONS_MARKDOWN) {
        write_markdown(&out);
        return;
    }
    put(&out, "Options of the runtime: variable, default (range), effect\n");
    write_text(&out, MR_OPTION_RUNTIME);
    put(&out, "\nOptions of every pool; MOORING_POOL_<NAME>_... sets one pool\n");
    write_text(&out, MR_OPTION_POOL);
    put(&out, "\nMOORING_PRESET sets several that are still at their default\n");
    write_presets_text(&out);
}
