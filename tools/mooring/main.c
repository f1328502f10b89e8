/*
 * mooring: requests, load, the test server and the list of options, on the library's public API
 * alone. One thread of its own; load adds the runtime's shards.
 */
#include "cli.h"
#include "commands.h"
#include "drive.h"

#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char usage[] =
    "usage: mooring COMMAND [arguments]\n"
    "  get URL...          fetch; bodies to standard output\n"
    "  load URL            keep requests in flight, then report speed and latency\n"
    "  pool URL            threads that acquire, query and release, then a report; any protocol\n"
    "  ping URL            connect, then a round trip a second; any protocol\n"
    "  origin              an HTTP server for tests and demos\n"
    "  options             every MOORING_* variable: default, range, effect\n"
    "  version             of the library, how it was built, what it speaks\n"
    "Each command knows --help.\n";

static int print_only(int argc, char **argv, const char *text)
{
    if (argc < 2)
        return -1;
    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        fputs(text, stdout);
        return EXIT_OK;
    }
    return cli_misused("unknown argument %s", argv[1]);
}

static void write_text(void *user, const char *text, size_t len)
{
    fwrite(text, 1, len, user);
}

static int options_main(int argc, char **argv)
{
    moor_options_format format = MOOR_OPTIONS_TEXT;
    if (argc == 2 && strcmp(argv[1], "--markdown") == 0) {
        format = MOOR_OPTIONS_MARKDOWN;
        argc = 1;
    }
    const int code = print_only(argc, argv,
                                "usage: mooring options [--markdown]\n"
                                "Lists every variable with its default, range and effect.\n");
    if (code >= 0)
        return code;
    moor_options_write(format, write_text, stdout);
    if (format == MOOR_OPTIONS_TEXT)
        printf("\n%s\n", moor_build_info());
    return EXIT_OK;
}

static int version_main(int argc, char **argv)
{
    const int code = print_only(argc, argv,
                                "usage: mooring version\n"
                                "Prints the library's version and what its build uses.\n");
    if (code >= 0)
        return code;
    const unsigned v = moor_version_number();
    char schemes[256];
    printf("mooring %u.%u.%u\n%s\nschemes: http https %s\n", v / 10000, v / 100 % 100, v % 100,
           moor_build_info(), drive_schemes(schemes, sizeof schemes));
    return EXIT_OK;
}

/* Its own program, so that no mistake of the library hides in the server that tests it. */
static int origin_main(int argc, char **argv)
{
    (void)argc;
    char self[PATH_MAX], path[PATH_MAX + 32];
    const ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);
    static char name[] = "mooring-origin";
    argv[0] = name;
    if (len > 0) {
        self[len] = '\0';
        snprintf(path, sizeof path, "%s/%s", dirname(self), name);
        execv(path, argv);
    }
    execvp(name, argv);
    cli_complain("cannot start mooring-origin: %s; it belongs beside mooring or in PATH",
                 strerror(errno));
    return EXIT_OTHER;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(int argc, char **argv);
    } commands[] = {
        {"get", get_main},         {"load", load_main},     {"pool", pool_main},
        {"ping", ping_main},       {"origin", origin_main}, {"options", options_main},
        {"version", version_main},
    };
    if (argc < 2) {
        fputs(usage, stderr);
        return EXIT_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        fputs(usage, stdout);
        return EXIT_OK;
    }
    if (strcmp(name, "--version") == 0)
        name = "version";
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(name, commands[i].name) == 0) {
            cli_set_command(name);
            const int code = commands[i].run(argc - 1, argv + 1);
            if (fflush(stdout) == 0 || code != EXIT_OK)
                return code;
            cli_complain("cannot write standard output: %s", strerror(errno));
            return EXIT_WRITE;
        }
    return cli_misused("unknown command %s", name);
}
