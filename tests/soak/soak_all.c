/*
 * The soak that needs nothing: handle leases of the dummy driver and byte streams to a server of its own, in one
 * runtime.
 */
#include "tests/soak/soak.h"

static const char *stream_url;
static struct soak_handles *handles;
static struct soak_streams *streams;

bool soak_prepare(struct soak *s)
{
    (void)s;
    stream_url = soak_stream_server();
    return stream_url;
}

void soak_begin(struct soak *s)
{
    handles = soak_handles_start(s);
    streams = soak_streams_start(s, stream_url);
}

void soak_end(struct soak *s)
{
    (void)s;
    soak_streams_end(streams);
    soak_handles_end(handles);
}
