/*
 * The command line. Pure but for what it prints; runs before any thread.
 * Must never open anything: a wrong option has no effects.
 */
#include "options.h"

#include <getopt.h>
#include <stdio.h>

#include "text.h"

static const char usage[] =
    "usage: mooring-origin [options]\n"
    "An HTTP/1.1 server for tests and demos. GET / lists its routes.\n"
    "  --port N           port, 0 = a free one (default 0)\n"
    "  --bind ADDR        IPv4, IPv6 or unix:/path (default 127.0.0.1)\n"
    "  --threads N        1 to 64, each with its own listener (default 1)\n"
    "  --idle-timeout MS  close conns idle for so long, 0 = never (default 0)\n"
    "  --max-requests N   close a conn after N requests, 0 = never (default 0)\n"
    "  --echo-port N      also echo raw bytes on this port, 0 = a free one\n"
    "  --help             this text\n"
    "Prints `listening on http://ADDR:PORT` when ready; ends on SIGTERM or SIGINT.\n";

static bool option_number(const char *name, const char *text, uint64_t min, uint64_t max,
                          uint64_t *out_value)
{
    if (parse_u64((struct span){text, strlen(text)}, max, out_value) && *out_value >= min)
        return true;
    fprintf(stderr, "mooring-origin: --%s %s: not a number from %llu to %llu\n", name, text,
            (unsigned long long)min, (unsigned long long)max);
    return false;
}

int options_read(int argc, char **argv, struct options *o)
{
    static const struct option names[] = {
        {"port", required_argument, NULL, 'p'},
        {"bind", required_argument, NULL, 'b'},
        {"threads", required_argument, NULL, 't'},
        {"idle-timeout", required_argument, NULL, 'i'},
        {"max-requests", required_argument, NULL, 'm'},
        {"echo-port", required_argument, NULL, 'e'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    *o = (struct options){.bind = "127.0.0.1", .threads = 1, .echo_port = -1};
    uint64_t n = 0;
    bool is_valid = true;
    for (int opt; is_valid && (opt = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        switch (opt) {
        case 'p':
            is_valid = option_number("port", optarg, 0, 65535, &n);
            o->port = (unsigned)n;
            break;
        case 'b':
            o->bind = optarg;
            break;
        case 't':
            is_valid = option_number("threads", optarg, 1, THREADS_MAX, &n);
            o->threads = (unsigned)n;
            break;
        case 'i':
            is_valid = option_number("idle-timeout", optarg, 0, UINT32_MAX, &n);
            o->idle_timeout_ms = (uint32_t)n;
            break;
        case 'm':
            is_valid = option_number("max-requests", optarg, 0, UINT32_MAX, &n);
            o->requests_per_conn_max = n;
            break;
        case 'e':
            is_valid = option_number("echo-port", optarg, 0, 65535, &n);
            o->echo_port = (int)n;
            break;
        case 'h':
            fputs(usage, stdout);
            return 0;
        default:
            is_valid = false;
        }
    }
    if (is_valid && optind == argc)
        return -1;
    fputs("try mooring-origin --help\n", stderr);
    return 2;
}
