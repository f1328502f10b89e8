/*
 * The names and sentences of moor_err, both made from MOOR_ERRORS.
 * Pure; any thread.
 */
#include <mooring/error.h>

const char *moor_err_name(moor_err e)
{
    switch (e) {
#define X(name, value, text)                                                                       \
    case MOOR_##name:                                                                              \
        return "MOOR_" #name;
        MOOR_ERRORS(X)
#undef X
    default:
        return "MOOR_UNKNOWN";
    }
}

const char *moor_err_text(moor_err e)
{
    switch (e) {
#define X(name, value, text)                                                                       \
    case MOOR_##name:                                                                              \
        return text;
        MOOR_ERRORS(X)
#undef X
    default:
        return "not an error number of this library";
    }
}
