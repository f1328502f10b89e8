#!/usr/bin/env python3
"""Each rule of tools/check-* is broken once in a tree made for it, and must be noticed there."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[2] / "tools"
HEAD = "/* What it owns. */\n"


def check(script, files, *arguments):
    """Runs a check over a tree of just these files; gives its exit status and what it printed."""
    with tempfile.TemporaryDirectory() as root:
        for name, text in files.items():
            path = Path(root) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        done = subprocess.run([sys.executable, "-B", TOOLS / script, "--root", root, *arguments],
                              text=True, capture_output=True, check=False)
        return done.returncode, done.stdout + done.stderr


class Checks(unittest.TestCase):
    def refused(self, script, name, text, expected):
        status, output = check(script, {name: text})
        self.assertEqual(status, 1, output)
        self.assertIn(expected, output)
        self.assertIn(name, output)

    def accepted(self, script, files, *arguments):
        status, output = check(script, files, *arguments)
        self.assertEqual(status, 0, output)


class Floors(Checks):
    def includes(self, name, target, expected):
        self.refused("check-floors", name, f"{HEAD}#include {target}\n", expected)

    def test_a_floor_above(self):
        self.includes("base/a.c", '"core/io.h"', "stands above it")
        self.includes("core/a.h", '"client/http.h"', "stands above it")

    def test_siblings(self):
        self.includes("alloc/a.c", '"policy/backoff.h"', "siblings")
        self.includes("drivers/redis/a.c", '"drivers/mysql/b.h"', "siblings")

    def test_engines_see_no_io(self):
        for target in ('"core/io.h"', "<sys/socket.h>", "<time.h>", '"base/clock.h"'):
            self.includes("h1/a.c", target, "does no I/O")
        self.includes("drivers/redis/codec.c", "<netdb.h>", "does no I/O")

    def test_programs(self):
        self.includes("tools/mooring/a.c", '"base/list.h"', "public headers only")
        self.includes("examples/a.c", '"core/io.h"', "public headers only")
        self.includes("drivers/redis/a.c", '"core/io.h"', "public headers only")
        self.includes("tools/origin/a.c", "<mooring/types.h>", "no part of the library")
        self.includes("tools/origin/a.c", '"base/list.h"', "no part of the library")

    def test_unknown_folders(self):
        self.refused("check-floors", "extra/a.c", HEAD, "stands on no floor")
        self.includes("core/a.c", '"extra/a.h"', "stands on no floor")
        self.includes("core/a.c", '"a.h"', "write the folder")

    def test_what_is_allowed(self):
        self.accepted("check-floors", {
            "core/a.c": '#include "core/a.h"\n#include "alloc/b.h"\n#include <sys/socket.h>\n',
            "h1/a.c": '#include "h1/b.h"\n#include "base/c.h"\n#include <mooring/types.h>\n',
            "tools/mooring/a.c": '#include "tools/mooring/b.h"\n#include <mooring/pool.h>\n',
            "tests/a.c": '#include "core/a.h"\n',
            "drivers/redis/a.c": '#include "drivers/redis/b.h"\n#include <mooring/driver.h>\n',
        })


class Headers(Checks):
    def test_needs_another_header(self):
        self.refused("check-headers", "core/a.h", "size_t a(void);\n", "alone as C")
        self.refused("check-headers", "include/mooring/a.h", "bool a(void);\n", "alone as C17")

    def test_not_cxx(self):
        self.refused("check-headers", "include/mooring/a.h", "int a(int class);\n", "C++17")

    def test_no_include_guard(self):
        self.refused("check-headers", "base/a.h", "struct a { int b; };\n", "alone as C")

    def test_what_is_allowed(self):
        guarded = "#ifndef A\n#define A\n#include <stddef.h>\nstruct a { size_t b; };\n#endif\n"
        self.accepted("check-headers", {"base/a.h": guarded, "include/mooring/a.h": guarded,
                                        "core/b.h": '#include "base/a.h"\n'})

    def test_drivers_without_their_library(self):
        text = "#include <tape.h>\n"
        self.refused("check-headers", "drivers/tape/a.h", text, "tape.h")
        self.accepted("check-headers", {"drivers/tape/a.h": text}, "--without=disk,tape")


class Tidy(Checks):
    def body(self, name, statement, expected):
        self.refused("check-tidy", name, f"{HEAD}void f(void)\n{{\n    {statement}\n}}\n", expected)

    def test_banned_functions(self):
        self.body("core/a.c", "p = malloc(1);", "malloc()")
        self.body("core/a.c", "free (p);", "free()")
        self.body("tests/a.c", "strcpy(a, b);", "strcpy()")
        self.body("h1/a.c", "sprintf(a, b);", "sprintf()")
        self.body("core/a.c", "t = time(NULL);", "time()")
        self.body("base/b.c", "clock_gettime(c, &t);", "clock_gettime()")
        self.body("core/a.c", "pthread_mutex_lock(&m);", "pthread_mutex_lock()")
        self.body("drivers/ssh/a.c", "pthread_mutex_lock(&m);", "pthread_mutex_lock()")

    def test_sizes(self):
        self.refused("check-tidy", "core/a.c", HEAD + "int x;\n" * 1200, "1201 lines, at most 1200")
        long_one = f"{HEAD}static int long_one(int a)\n{{\n" + "    a++;\n" * 98 + "}\n"
        self.refused("check-tidy", "core/a.c", long_one, "long_one() has 101 lines, at most 100")
        status, output = check("check-tidy", {"core/a.c": HEAD + "int x;\n" * 900})
        self.assertEqual(status, 0)
        self.assertIn("what would the second file be", output)

    def test_words(self):
        self.refused("check-tidy", "core/a.c", HEAD + "/* TODO later */\n", "number of its issue")
        self.refused("check-tidy", "core/a.c", "int a;\n", "starts without saying")
        self.refused("check-tidy", "core/README.md", "line\n" * 41, "41 lines")

    def test_public_names(self):
        self.refused("check-tidy", "include/mooring/a.h", "MOOR_API int\nmr_inner(void);\n",
                     "mr_inner does not start with moor_")

    def test_what_is_allowed(self):
        self.accepted("check-tidy", {
            "alloc/a.c": HEAD + "void f(void)\n{\n    free(malloc(1));\n}\n",
            "tests/a.c": HEAD + "void f(void)\n{\n    free(malloc(time(NULL)));\n}\n",
            "drivers/redis/a.c": HEAD + "void f(void)\n{\n    free(malloc(time(NULL)));\n}\n",
            "base/clock.c": HEAD + "void f(void)\n{\n    clock_gettime(c, &t);\n}\n",
            "core/a.c": HEAD + 'void f(void)\n{\n    h->free(p); mr_free(p); puts("free()");\n}\n'
                               "/* free() is explained here. TODO(#12): so is this. */\n",
            "include/mooring/a.h": "#define MOOR_API __attribute__((x(1)))\n"
                                   "MOOR_API const char *moor_name(int a);\n",
        })


class Run(unittest.TestCase):
    """What ./run answers without building anything."""

    def run_script(self, *arguments):
        return subprocess.run([TOOLS.parent / "run", *arguments], text=True, capture_output=True,
                              check=False)

    def test_help(self):
        for arguments in ((), ("--help",)):
            done = self.run_script(*arguments)
            self.assertEqual(done.returncode, 0)
            for word in ("demo", "test [--long]", "build", "mooring ARGS", "bench"):
                self.assertIn(word, done.stdout)

    def test_unknown_words(self):
        self.assertEqual(self.run_script("dance").returncode, 2)
        for arguments, word in ((("test", "--fast"), "--fast"),
                                (("test", "--backend", "select"), "select"),
                                (("test", "--backend"), "io_uring or epoll")):
            done = self.run_script(*arguments)
            self.assertEqual(done.returncode, 1)
            self.assertIn(word, done.stderr)


unittest.main()
