/*
 * The error numbers and sentences of MR_H1_FAULTS. Pure; any thread.
 * Must never format text: a fault travels as a pointer to static bytes.
 */
#include "h1/fault.h"

static const struct {
    moor_err err;
    const char *text;
} faults[MR_H1_FAULT_COUNT] = {
#define X(name, err, text) [MR_H1_FAULT_##name] = {MOOR_##err, text},
    MR_H1_FAULTS(X)
#undef X
};

moor_err mr_h1_fault_err(enum mr_h1_fault f)
{
    return (unsigned)f < MR_H1_FAULT_COUNT ? faults[f].err : MOOR_EINVAL;
}

const char *mr_h1_fault_text(enum mr_h1_fault f)
{
    return (unsigned)f < MR_H1_FAULT_COUNT ? faults[f].text : "not a fault of this list";
}
