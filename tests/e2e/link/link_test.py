#!/usr/bin/env python3
"""The libraries as a program's linker and loader see them.

MOORING_BUILD is a built tree; MOORING_OBJECTS the library's object files; CC compiles the programs.
A test's programs are in program.c, one main for all, so that every way in runs the same checks;
beside_openssl.c is the one that needs a server.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD = Path(os.environ["MOORING_BUILD"])
CC = os.environ.get("CC", "cc")
DRIVERS = os.environ.get("MOORING_DRIVERS_BUILT", "").split()
SKIPPED = 77


def output(*command, **settings):
    done = subprocess.run([str(word) for word in command], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False, **settings)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}: {done.returncode}\n{done.stdout}")
    return done.stdout


def symbols(*arguments):
    """Names that nm prints, without versions; the version nodes themselves (type A) are none."""
    found = re.findall(r"^\S* +([A-Za-z]) (\S+)$", output("nm", *arguments), re.MULTILINE)
    return {name.split("@")[0] for kind, name in found if kind != "A"}


def foreign(names, prefix):
    return sorted(name for name in names if not re.match(prefix, name))


def needed(library):
    return set(re.findall(r"\(NEEDED\).*\[(.*)\]", output("readelf", "-d", library)))


class WithDirectory(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)

    def lacks(self, what):
        """Nothing of this class can run, which is told to ctest at the end."""
        print(f"skipped: {what}")
        self.skipTest(what)

    def compile(self, *arguments, source="program.c"):
        program = self.directory / "program"
        output(CC, "-std=gnu17", "-Wall", "-Wextra", "-Werror", HERE / source, *arguments,
               "-o", program, cwd=self.directory)
        return program

    def install(self):
        prefix = self.directory / "prefix"
        output("cmake", "--install", BUILD, "--prefix", prefix)
        return prefix


class Exports(unittest.TestCase):
    def test_shared_library_exports_only_the_api(self):
        names = symbols("-D", "--defined-only", BUILD / "libmooring.so")
        self.assertIn("moor_err_text", names)
        self.assertEqual(foreign(names, "moor_"), [])

    def test_static_library_defines_only_the_api(self):
        names = symbols("-g", "--defined-only", BUILD / "libmooring.a")
        self.assertIn("moor_err_text", names)
        self.assertEqual(foreign(names, "moor_"), [])

    def test_static_library_takes_its_allocator_along(self):
        undefined = symbols("-u", BUILD / "libmooring.a")
        self.assertEqual([name for name in undefined if re.match("mr_|mrj_|je_|moor_", name)], [])

    def test_internal_names_carry_the_prefix(self):
        objects = os.environ["MOORING_OBJECTS"].split(";")
        names = symbols("-g", "--defined-only", *objects)
        # mrj_malloc_conf is the name under which jemalloc looks for its settings.
        self.assertEqual(foreign(names, "mr_|moor_|mrj_malloc_conf$"), [])

    def test_nothing_of_tls_or_jemalloc_is_seen_from_outside(self):
        if not os.environ.get("MOORING_WOLFSSL_ARCHIVE"):
            self.skipTest("this tree uses the system's wolfSSL")
        inside = "wolf|wc_|SSL_|TLS_|BIO_|EVP_|X509|je_|mrj_|malloc_conf"
        self.assertTrue(re.match(inside, "wolfSSL_new"))
        for arguments in (["-D", BUILD / "libmooring.so"], ["-g", BUILD / "libmooring.a"]):
            names = symbols(*arguments)
            self.assertIn("moor_pool_open", names)
            self.assertEqual([name for name in sorted(names) if re.match(inside, name)], [])

    def test_shared_library_can_be_loaded_late_and_never_unmapped(self):
        dynamic = output("readelf", "-d", BUILD / "libmooring.so")
        self.assertNotIn("STATIC_TLS", dynamic)
        self.assertIn("NODELETE", dynamic)
        self.assertRegex(dynamic, r"SONAME.*\[libmooring\.so\.\d+\]")


class Loading(WithDirectory):
    def test_dlopen_from_a_plain_program(self):
        program = self.compile("-DWITH_DLOPEN", "-pthread")
        output(program, "libc.so", BUILD / "libmooring.so")

    def test_linked_with_the_shared_library(self):
        program = self.compile(f"-I{include()}", f"-L{BUILD}", "-lmooring", "-pthread",
                               f"-Wl,-rpath,{BUILD}")
        output(program, "libc.so")


class StaticConsumer(WithDirectory):
    def test_malloc_stays_that_of_libc(self):
        program = self.compile(f"-I{include()}", BUILD / "libmooring.a", "-luring", "-lcares", "-lnghttp2",
                               "-lm", "-pthread")
        output(program, "libc.so")
        defined = symbols("-g", "--defined-only", program)
        self.assertEqual(defined & {"malloc", "free", "realloc", "calloc"}, set())

    def test_one_program_may_define_our_internal_names(self):
        clash = self.directory / "clash.c"
        clash.write_text("int mr_panic, mrj_mallocx, mr_heap_init;\n")
        program = self.compile(clash, f"-I{include()}", BUILD / "libmooring.a", "-luring",
                               "-lcares", "-lnghttp2", "-lm", "-pthread")
        output(program, "libc.so")


class WithInstalled(WithDirectory):
    def pkg_config(self, *arguments, package="mooring"):
        paths = ":".join(str(p.parent) for p in self.prefix.rglob("mooring.pc"))
        environment = {**os.environ, "PKG_CONFIG_PATH": paths}
        return output("pkg-config", *arguments, package, env=environment).split()


class Installed(WithInstalled):
    def test_pkg_config(self):
        self.prefix = self.install()
        library = next(self.prefix.rglob("libmooring.so")).parent
        program = self.compile(*self.pkg_config("--cflags", "--libs"), "-pthread",
                               f"-Wl,-rpath,{library}")
        output(program, "libc.so")

    def test_pkg_config_static(self):
        self.prefix = self.install()
        for shared in self.prefix.rglob("libmooring.so*"):
            shared.unlink()
        program = self.compile(*self.pkg_config("--static", "--cflags", "--libs"))
        output(program, "libc.so")
        self.assertNotIn("libmooring", output("readelf", "-d", program))

    def test_find_package(self):
        self.prefix = self.install()
        build = self.directory / "build"
        output("cmake", "-S", HERE / "package", "-B", build, f"-DCMAKE_C_COMPILER={CC}",
               f"-DCMAKE_PREFIX_PATH={self.prefix}")
        output("cmake", "--build", build)
        output(build / "with_shared", "libc.so")
        output(build / "with_static", "libc.so")
        self.assertIn("libmooring.so", output("readelf", "-d", build / "with_shared"))
        self.assertNotIn("libmooring", output("readelf", "-d", build / "with_static"))

    def test_installed_tree_holds_no_internal_header(self):
        prefix = self.install()
        headers = {str(p.relative_to(prefix / "include")) for p in prefix.rglob("*.h")}
        self.assertIn("mooring/error.h", headers)
        self.assertEqual(foreign(headers, r"mooring(/|\.h$)"), [])
        # A driver's header without its driver could only mislead.
        absent = set(os.environ["MOORING_DRIVERS_KNOWN"].split()) - set(DRIVERS)
        self.assertEqual(headers & {f"mooring/{name}.h" for name in absent}, set())


class Drivers(WithInstalled):
    """Each is a library of its own, and the library proper knows nothing of what they need."""

    def setUp(self):
        super().setUp()
        if not DRIVERS:
            self.lacks("this tree builds no driver")

    def exported(self, name):
        return symbols("-D", "--defined-only", BUILD / f"libmooring-{name}.so")

    def write_program(self, name):
        """Takes the address of all that the driver exports: so the header must declare it."""
        uses = "\n".join(f"    use((const void *)&{symbol});" for symbol in self.exported(name))
        source = self.directory / f"{name}.c"
        source.write_text(f"""#include <mooring/{name}.h>
#include <mooring/mooring.h>
static int count;
static void use(const void *address) {{ count += address != 0; }}
int main(void)
{{
{uses}
    return count == {len(self.exported(name))} && moor_version_number() ? 0 : 1;
}}
""")
        return source

    def test_they_export_only_the_api(self):
        for name in DRIVERS:
            with self.subTest(name):
                self.assertNotEqual(self.exported(name), set())
                self.assertEqual(foreign(self.exported(name), f"moor_{name}_"), [])
                archive = symbols("-g", "--defined-only", BUILD / f"libmooring-{name}.a")
                self.assertEqual(archive, self.exported(name))

    def test_they_use_only_the_api(self):
        for name in DRIVERS:
            with self.subTest(name):
                undefined = symbols("-u", BUILD / f"libmooring-{name}.a")
                self.assertTrue(any(symbol.startswith("moor_") for symbol in undefined))
                self.assertEqual([s for s in sorted(undefined) if re.match("mr_|mrj_", s)], [])

    def test_the_library_needs_none_of_what_they_need(self):
        ours = needed(BUILD / "libmooring.so")
        self.assertIn("libc.so.6", ours)
        for name in DRIVERS:
            with self.subTest(name):
                theirs = needed(BUILD / f"libmooring-{name}.so")
                self.assertTrue(any(re.match(r"libmooring\.so\.\d+$", lib) for lib in theirs))
                common = ours & theirs
                self.assertEqual(foreign(common, "libc\\.so|ld-linux|libgcc_s|libm\\.so"), [])
        everything = output("ldd", BUILD / "libmooring.so")
        self.assertNotRegex(everything, r"libpq|libmariadb|libhiredis|libssh")

    def test_pkg_config(self):
        self.prefix = self.install()
        library = next(self.prefix.rglob("libmooring.so")).parent
        for name in DRIVERS:
            with self.subTest(name):
                flags = self.pkg_config("--cflags", "--libs", package=f"mooring-{name}")
                program = self.directory / name
                output(CC, "-std=gnu17", "-Wall", "-Wextra", "-Werror", self.write_program(name),
                       *flags, f"-Wl,-rpath,{library}", "-o", program)
                output(program)

    def test_find_package(self):
        self.prefix = self.install()
        for name in DRIVERS:
            with self.subTest(name):
                self.write_program(name)
                build = self.directory / f"build-{name}"
                output("cmake", "-S", HERE / "driver_package", "-B", build, f"-DDRIVER={name}",
                       f"-DSOURCE={self.directory / name}.c", f"-DCMAKE_C_COMPILER={CC}",
                       f"-DCMAKE_PREFIX_PATH={self.prefix}")
                output("cmake", "--build", build)
                output(build / "with_shared")
                output(build / "with_static")
                self.assertIn("libmooring-", output("readelf", "-d", build / "with_shared"))
                self.assertNotIn("libmooring", output("readelf", "-d", build / "with_static"))

    def test_a_component_that_is_not_there_is_named(self):
        self.prefix = self.install()
        with self.assertRaisesRegex(AssertionError, "Driver\\s+tape: this\\s+mooring\\s+was\\s+built"):
            output("cmake", "-S", HERE / "driver_package", "-B", self.directory / "build",
                   "-DDRIVER=tape", "-DSOURCE=none.c", f"-DCMAKE_C_COMPILER={CC}",
                   f"-DCMAKE_PREFIX_PATH={self.prefix}")


class BesideJemalloc(WithDirectory):
    """Debian's jemalloc replaces malloc in the whole program; ours is in there too and unseen."""

    def setUp(self):
        super().setUp()
        found = output(CC, "-print-file-name=libjemalloc.a").strip()
        if not os.path.isabs(found):
            self.lacks("libjemalloc-dev is not installed")
        self.archive = found

    def test_shared_jemalloc(self):
        program = self.compile(f"-I{include()}", BUILD / "libmooring.a", "-ljemalloc", "-luring",
                               "-lcares", "-lnghttp2", "-lm", "-pthread")
        output(program, "libjemalloc.so")

    def test_static_jemalloc(self):
        program = self.compile(f"-I{include()}", BUILD / "libmooring.a", self.archive, "-luring",
                               "-lcares", "-lnghttp2", "-pthread", "-lm", "-ldl", "-lstdc++")
        output(program, "program")


class BesideOpenSSL(WithDirectory):
    """Both speak TLS in one process. What is linked first would win, if a name were in both."""

    def setUp(self):
        super().setUp()
        if not shutil.which("openssl") or not header_exists("openssl/ssl.h"):
            self.lacks("libssl-dev or openssl is not installed")
        # As the other tests of TLS do it.
        sys.path.insert(0, str(HERE.parent))
        from tls_authority import SERVER_CONF, Certificate, Key, make_all
        from tls_servers import OpenSSLServer

        root, key = Key("p256"), Key("p256", 1)
        anchor = Certificate("/CN=Root", root, extensions=("basicConstraints=critical,CA:TRUE",
                                                           "keyUsage=keyCertSign"))
        leaf = Certificate("/CN=leaf", key, anchor, extensions=("subjectAltName=DNS:localhost",))
        (self.directory / "server.cnf").write_text(SERVER_CONF)
        make_all(self.directory, [root, key], [anchor, leaf], [])
        self.server = OpenSSLServer(leaf.path, key.path, "-no-CAfile")
        self.addCleanup(self.server.__exit__)
        self.anchor = anchor.path

    def check(self, *arguments):
        program = self.compile(*arguments, f"-I{include()}", "-pthread", source="beside_openssl.c")
        output(program, self.server.port, self.anchor, "localhost", "127.0.0.1", timeout=60)
        return program

    def test_shared_library(self):
        ours = (f"-L{BUILD}", "-lmooring", f"-Wl,-rpath,{BUILD}")
        for order in ((*ours, "-lssl", "-lcrypto"), ("-lssl", "-lcrypto", *ours)):
            with self.subTest(order=order):
                self.assertRegex(output("readelf", "-d", self.check(*order)), r"NEEDED.*libssl")

    def test_static_library(self):
        ours = (BUILD / "libmooring.a", "-luring", "-lcares", "-lnghttp2", "-lm")
        for order in ((*ours, "-lssl", "-lcrypto"), ("-lssl", "-lcrypto", *ours)):
            with self.subTest(order=order):
                self.check(*order)


def header_exists(name):
    done = subprocess.run([CC, "-E", "-"], input=f"#include <{name}>\n", text=True, check=False,
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return done.returncode == 0


def include():
    """The headers of the tree that was built."""
    cache = (BUILD / "CMakeCache.txt").read_text()
    return Path(re.search(r"^CMAKE_HOME_DIRECTORY:\w+=(.*)$", cache, re.MULTILINE).group(1),
                "include")


if __name__ == "__main__":
    outcome = unittest.main(exit=False).result
    if not outcome.wasSuccessful():
        sys.exit(1)
    sys.exit(SKIPPED if len(outcome.skipped) == outcome.testsRun else 0)
