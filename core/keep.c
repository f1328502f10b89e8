/*
 * Copies of text options. Any thread that may use the heap.
 */
#include "core/keep.h"

#include "base/span.h"

static bool is_text_of(const struct mr_option *o, enum mr_option_scope scope)
{
    return o->scope == scope && mr_option_is_text(o);
}

moor_err mr_options_keep(enum mr_option_scope scope, void *options, struct mr_heap *h)
{
    bool is_short = false;
    for (size_t i = 0; i < mr_option_count; i++) {
        const struct mr_option *o = &mr_options[i];
        if (!is_text_of(o, scope))
            continue;
        struct mr_option_value v = mr_option_get(o, options);
        if (!v.text)
            continue;
        v.text = is_short ? NULL : mr_heap_copy_text(h, mr_span_cstr(v.text));
        is_short |= !v.text;
        mr_option_set(o, options, v);
    }
    if (!is_short)
        return MOOR_OK;
    mr_options_drop(scope, options, h);
    return MOOR_ENOMEM;
}

void mr_options_drop(enum mr_option_scope scope, void *options, struct mr_heap *h)
{
    for (size_t i = 0; i < mr_option_count; i++) {
        const struct mr_option *o = &mr_options[i];
        if (!is_text_of(o, scope))
            continue;
        struct mr_option_value v = mr_option_get(o, options);
        mr_heap_free_text(h, (char *)(uintptr_t)v.text);
        v.text = NULL;
        mr_option_set(o, options, v);
    }
}
