#!/usr/bin/env python3
"""The program over HTTP/2 against real servers: nghttpd, nginx, haproxy, Node's http2.

Usage: h2_servers_test.py PATH-OF-MOORING [unittest arguments]
A server that is not installed is passed over; 77 without openssl or any server.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import unittest

import h2_servers
from h2_servers import LENGTHS, Files, Haproxy, Nghttpd, NginxServer, Node, digest
from mooring_case import WAIT_S, environment, pattern, run

MOORING = sys.argv.pop(1)
REQUESTS = 10_000


class Served:
    """The tests of every server; `make` is what starts it."""

    make = None

    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory(prefix="mooring-h2-")
        cls.addClassCleanup(directory.cleanup)
        cls.files = Files(directory.name)
        cls.server = cls.make(cls.files)
        cls.addClassCleanup(cls.server.close)

    def run_program(self, *arguments, stdin=b"", **settings):
        return run(MOORING, *arguments, stdin=stdin,
                   **{"MOORING_TLS_CA": str(self.files.cert), **settings})

    def get(self, way, target, *options, stdin=b"", **settings):
        code, out, err = self.run_program("get", "--http2", "--timeout", "30s", *options,
                                          self.server.urls[way] + target, stdin=stdin, **settings)
        self.assertEqual((code, err), (0, ""))
        return out

    def test_bodies_are_byte_exact(self):
        for way in ("clear", "tls"):
            for length in LENGTHS:
                with self.subTest(way, length=length):
                    self.assertEqual(digest(self.get(way, f"/{length}")),
                                     self.files.digests[length])

    def test_bodies_on_one_conn(self):
        for way in ("clear", "tls"):
            with self.subTest(way):
                urls = [f"{self.server.urls[way]}/{n}" for n in (1, 100_000, 1)]
                code, out, err = self.run_program("get", "--http2", "-v", *urls)
                self.assertEqual((code, len(out)), (0, 100_002), err)
                self.assertIn("for a reused connection", err)

    def test_version_is_two(self):
        for way in ("clear", "tls"):
            with self.subTest(way):
                self.assertRegex(self.get(way, "/1", "-i"), rb"\AHTTP/2(\.0)? 200")

    def test_head(self):
        for way in ("clear", "tls"):
            with self.subTest(way):
                answer = self.get(way, "/100000", "-i", "-X", "HEAD")
                self.assertRegex(answer, rb"\AHTTP/2(\.0)? 200")
                self.assertRegex(answer.lower(), rb"content-length: 100000\r\n")
                self.assertTrue(answer.endswith(b"\r\n\r\n"))

    def test_missing(self):
        for way in ("clear", "tls"):
            with self.subTest(way):
                self.assertRegex(self.get(way, "/nowhere", "-i"), rb"\AHTTP/2(\.0)? 404")
                code, out, _ = self.run_program("get", "--http2", "--fail",
                                                self.server.urls[way] + "/nowhere")
                self.assertEqual((code, out), (22, b""))

    def test_echo(self):
        if not self.server.can_echo:
            self.skipTest("it does not echo")
        for way in ("clear", "tls"):
            for length in (1, 16384, 65535, 70_000, 3_000_000):
                with self.subTest(way, length=length):
                    sent = pattern(length)
                    self.assertTrue(self.get(way, "/echo", "-d", "@-", stdin=sent) == sent)

    def test_many_requests_on_one_conn(self):
        for way in ("clear", "tls"):
            with self.subTest(way):
                code, out, err = self.run_program(
                    "load", self.server.urls[way] + "/1", "--json", "--h2", "-m", "100", "-c", "1",
                    "-n", str(REQUESTS), "--shards", "1")
                seen = json.loads(out)
                self.assertEqual((code, seen["requests"], seen["errors"], seen["body_bytes"]),
                                 (0, REQUESTS, 0, REQUESTS), (err, seen["errors_by_kind"]))
                self.assertEqual(seen["conns_opened"], 1)

    def test_slow_reader(self):
        """Windows hold the server back, then let it go on to the end."""
        for way in ("clear", "tls"):
            with self.subTest(way), subprocess.Popen(
                    [MOORING, "get", "--http2", self.server.urls[way] + "/10000000"],
                    stdout=subprocess.PIPE,
                    env=environment(MOORING_TLS_CA=str(self.files.cert))) as program:
                first = program.stdout.read(1000)
                with self.assertRaises(subprocess.TimeoutExpired):
                    program.wait(0.2)
                self.assertEqual(digest(first + program.stdout.read()),
                                 self.files.digests[10_000_000])
                self.assertEqual(program.wait(WAIT_S), 0)


@unittest.skipUnless(h2_servers.NGHTTPD, "nghttpd is not installed")
class NghttpdTest(Served, unittest.TestCase):
    make = Nghttpd


@unittest.skipUnless(h2_servers.NGINX, "nginx is not installed")
class NginxTest(Served, unittest.TestCase):
    make = NginxServer

    def test_alpn_decides(self):
        """By default a server that has HTTP/2 gets it over TLS, others get HTTP/1.1."""
        for way, version in (("tls", b"HTTP/2.0"), ("h1", b"HTTP/1.1"), ("plain", b"HTTP/1.1")):
            with self.subTest(way):
                code, out, err = self.run_program("get", self.server.urls[way] + "/version")
                self.assertEqual((code, out, err), (0, version, ""))

    def test_one_point_one_may_be_asked_for(self):
        code, out, err = self.run_program("get", self.server.urls["tls"] + "/version",
                                          MOORING_HTTP_VERSION="1.1")
        self.assertEqual((code, out, err), (0, b"HTTP/1.1", ""))

    def test_two_only_is_refused_by_others(self):
        for way in ("h1", "plain"):
            with self.subTest(way):
                code, out, err = self.run_program("get", "--http2", "--timeout", "10s",
                                                  self.server.urls[way] + "/version")
                self.assertNotIn(code, (0, 28), err)
                self.assertEqual((out, err.count("\n")), (b"", 1), err)

    def test_load_falls_back_to_one_point_one(self):
        code, out, err = self.run_program("load", self.server.urls["h1"] + "/small", "--json", "-c",
                                          "16", "-n", "2000")
        seen = json.loads(out)
        self.assertEqual((code, seen["requests"], seen["errors"]), (0, 2000, 0), err)


@unittest.skipUnless(h2_servers.HAPROXY and h2_servers.NGINX, "haproxy or nginx is not installed")
class HaproxyTest(Served, unittest.TestCase):
    make = Haproxy


@unittest.skipUnless(h2_servers.NODE, "node is not installed")
class NodeTest(Served, unittest.TestCase):
    make = Node

    def test_trailers_and_hints(self):
        for way in ("clear", "tls"):
            with self.subTest(way):
                self.assertEqual(self.get(way, "/trailers"), b"with trailers")
                self.assertEqual(self.get(way, "/hints"), b"with hints")


if __name__ == "__main__":
    if b"--http2" not in run(MOORING, "get", "--help")[1]:
        print("the program has no HTTP/2", file=sys.stderr)
        sys.exit(77)
    if not shutil.which("openssl") or not (h2_servers.NGHTTPD or h2_servers.NGINX or
                                           h2_servers.NODE):
        print("openssl or every server is missing", file=sys.stderr)
        sys.exit(77)
    done = unittest.main(exit=False).result
    if done.wasSuccessful() and len(done.skipped) >= done.testsRun:
        sys.exit(77)  # the server that was asked for is not installed
    sys.exit(not done.wasSuccessful())
