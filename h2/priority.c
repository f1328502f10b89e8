/*
 * Writes the priority value of RFC 9218. Pure: any thread; never reads what a peer sent.
 */
#include "h2/priority.h"

#include "base/assert.h"

size_t mr_h2_priority_write(char out_[MR_H2_PRIORITY_CAP], uint8_t urgency, bool incremental)
{
    MR_ASSERT(urgency < MR_H2_URGENCIES);
    size_t len = 0;
    if (urgency != MR_H2_URGENCY_DEFAULT) {
        out_[len++] = 'u';
        out_[len++] = '=';
        out_[len++] = (char)('0' + urgency);
    }
    if (incremental && len) {
        out_[len++] = ',';
        out_[len++] = ' ';
    }
    if (incremental)
        out_[len++] = 'i'; /* RFC 8941 3.2: true is written by the key alone */
    out_[len] = '\0';
    return len;
}
