/* Must crash on its corpus: proves that a crash in a fuzz target is noticed. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size >= 6 && memcmp(data, "canary", 6) == 0)
        abort();
    return 0;
}
