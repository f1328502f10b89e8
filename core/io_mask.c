/*
 * Which newer kernel features MOORING_IO_MASK hides, so that tests cover what older kernels do.
 * Pure.
 */
#include "core/io.h"

#include <string.h>

static const struct {
    const char *name;
    uint32_t bits;
} features[] = {
    {"no_iowait", MR_IO_NO_IOWAIT},
    {"reg_ring", MR_IO_REG_RING},
    {"6.1", MR_IO_FEATURES_ALL & ~(uint32_t)MR_IO_REG_RING}, /* everything newer than the floor */
};

bool mr_io_mask_parse(const char *mask, uint32_t *out_features)
{
    uint32_t hidden = 0;
    for (const char *at = mask; at && *at;) {
        const size_t len = strcspn(at, ",");
        uint32_t bits = 0;
        for (size_t i = 0; i < sizeof features / sizeof *features; i++)
            if (strlen(features[i].name) == len && !memcmp(features[i].name, at, len))
                bits = features[i].bits;
        if (!bits && len)
            return false;
        hidden |= bits;
        at += len;
        at += *at == ',';
    }
    *out_features = MR_IO_FEATURES_ALL & ~hidden;
    return true;
}
