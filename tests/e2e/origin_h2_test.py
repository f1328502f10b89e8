#!/usr/bin/env python3
"""mooring-origin over HTTP/2, in clear text and over TLS, as clients see it: every route, many streams.

Usage: origin_h2_test.py PATH-OF-MOORING-ORIGIN PATH-OF-MOORING [unittest arguments]

Asked by clients of others (curl, nghttp, h2load: each skipped where it is not installed) and by our
own program. origin_h2_frames_test.py is for what no such client does.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import unittest

import origin_test
from origin_test import Origin, pattern
from tls_case import TlsClient, path_of, trust

MOORING = sys.argv.pop(1)
RUN_S = 60


def has(program):
    return unittest.skipUnless(shutil.which(program), f"{program} is not installed")


def run(*arguments, stdin=b"", code=0):
    done = subprocess.run([str(a) for a in arguments], input=stdin, capture_output=True,
                          timeout=RUN_S)
    if code is not None and done.returncode != code:
        raise AssertionError(f"{arguments}: {done.returncode}, {done.stderr[-2000:]!r}")
    return done.stdout


class H2Test(origin_test.OriginTest):
    def url(self, target):
        return f"{self.scheme}://localhost:{self.origin.port}{target}"

    trusting = ()  # arguments of curl and of mooring
    insists = ("--http2-prior-knowledge",)  # of curl

    def curl(self, target, *options, stdin=b""):
        """Status and body of the answer; it must be HTTP/2."""
        out = run("curl", "-s", "-S", "-m", RUN_S, *self.insists, *self.trusting,
                  "-w", "\n%{http_version} %{http_code}", *options, self.url(target), stdin=stdin)
        body, facts = out.rsplit(b"\n", 1)
        version, status = facts.split(b" ")
        self.assertEqual(version, b"2")
        return int(status), body

    def fields(self, target, *options):
        out = run("curl", "-s", "-m", RUN_S, *self.insists, *self.trusting, "-D", "-", "-o",
                  "/dev/null", *options, self.url(target))
        head = out.decode().split("\r\n\r\n")[-2].split("\r\n")
        return head[0], dict(line.split(": ", 1) for line in head[1:])

    def mooring(self, *arguments, **options):
        targets = [self.url(a) if a.startswith("/") and not os.path.exists(a) else a
                   for a in arguments]
        return run(MOORING, "get", "--http2", *self.trusting, *targets, **options)


class Routes(H2Test):
    """By curl."""

    setUp = has("curl")(lambda self: None)

    def test_head_of_an_answer(self):
        line, fields = self.fields("/bytes/300")
        self.assertEqual(line, "HTTP/2 200 ")
        self.assertEqual(fields, {"server": "mooring-origin", "content-length": "300",
                                  "content-type": "application/octet-stream"})
        self.assertEqual(self.fields("/delay/0")[1]["content-type"], "text/plain")
        self.assertEqual(self.fields("/stats")[1]["content-type"], "application/json")

    def test_bytes(self):
        for length in (0, 1, 251, 16384, 16385, 65511, 65512, 1000003):
            self.assertEqual(self.curl(f"/bytes/{length}"), (200, pattern(length)), length)
        for target in ("/bytes/", "/bytes/-1", "/bytes/1x"):
            self.assertEqual(self.curl(target)[0], 400, target)

    def test_chunked_tells_no_length(self):
        for length, chunk in ((0, 10), (10, 3), (70000, 4096), (300000, 131072)):
            self.assertEqual(self.curl(f"/chunked/{length}?chunk={chunk}"), (200, pattern(length)))
        self.assertNotIn("content-length", self.fields("/chunked/10")[1])

    def test_delay(self):
        begin = time.monotonic()
        self.assertEqual(self.curl("/delay/120"), (200, b"delayed 120 ms\n"))
        self.assertGreaterEqual(time.monotonic() - begin, 0.119)

    def test_status(self):
        for status in (200, 201, 301, 400, 404, 429, 500, 503, 599):
            self.assertEqual(self.curl(f"/status/{status}"), (status, f"{status}\n".encode()))
        for status in (204, 205, 304):
            self.assertEqual(self.curl(f"/status/{status}"), (status, b""))
        self.assertNotIn("content-length", self.fields("/status/204")[1])
        self.assertEqual(self.fields("/status/205")[1]["content-length"], "0")
        for bad in ("199", "1000", "x"):
            self.assertEqual(self.curl(f"/status/{bad}")[0], 400)

    def test_drip(self):
        begin = time.monotonic()
        self.assertEqual(self.curl("/drip?bytes=6&interval=30"), (200, pattern(6)))
        self.assertGreaterEqual(time.monotonic() - begin, 0.149)
        self.assertEqual(self.curl("/drip?bytes=10&interval=1&piece=4"), (200, pattern(10)))

    def test_echo(self):
        for length in (0, 1, 1000, 3000000):
            body = pattern(length + 7)[7:]
            for told in ((), ("-H", "Content-Length:")):
                self.assertTrue(self.curl("/echo", "-X", "PUT", "--data-binary", "@-", *told,
                                          stdin=body) == (200, body), length)
        self.assertEqual(self.fields("/echo", "-X", "PATCH", "-d", "x")[1]["x-method"], "PATCH")

    def test_expect_continue(self):
        body = pattern(100000)
        options = ("-H", "Expect: 100-continue", "--data-binary", "@-")
        self.assertTrue(self.curl("/echo", *options, stdin=body) == (200, body))

    def test_sink(self):
        for body, verdict in ((pattern(200000), True), (b"abc", False)):
            answer = self.curl("/sink", "--data-binary", "@-", stdin=body)[1]
            self.assertEqual(json.loads(answer), {"bytes": len(body), "matches": verdict})

    def test_headers(self):
        lines = self.curl("/headers", "-H", "X-One: 1")[1].split(b"\r\n")
        self.assertEqual(lines[:2], [b":method: GET", b":path: /headers"])
        self.assertIn(b":scheme: " + self.scheme.encode(), lines)
        self.assertIn(b"x-one: 1", lines)

    def test_head_request(self):
        line, fields = self.fields("/bytes/77", "-I")
        self.assertEqual((line, fields["content-length"]), ("HTTP/2 200 ", "77"))

    def test_close(self):
        self.assertEqual(self.curl("/close"), (200, b"closing\n"))

    def test_index_and_what_is_not_there(self):
        self.assertIn(b"/bytes/N", self.curl("/")[1])
        for target in ("/nowhere", "/bad/nothing"):
            self.assertEqual(self.curl(target)[0], 404)

    def test_misdeeds_are_of_http_1(self):
        for name in ("reset", "stall-head", "garbage", "1xx", "early", "short"):
            status, body = self.curl(f"/bad/{name}")
            self.assertEqual(status, 501)
            self.assertIn(b"HTTP/1", body)

    def test_stats_tell_of_h2(self):
        before = self.stats()
        for _ in range(3):
            self.curl("/bytes/1")
        after = self.stats()
        self.assertEqual(after["h2_conns"] - before["h2_conns"], 3)
        self.assertEqual(after["h2_requests"] - before["h2_requests"], 3)
        self.assertEqual(after["requests"] - before["requests"], 4)  # /stats is one, of HTTP/1

    def test_late(self):
        self.assertEqual(self.curl("/late"), (200, b"late enough\n"))

    def test_tls(self):
        self.assertIn(b"version: -\n", self.curl("/tls")[1])


class OurProgram(H2Test):
    def test_bodies(self):
        for length in (0, 1, 16385, 5000000):
            self.assertTrue(self.mooring(f"/bytes/{length}") == pattern(length), length)
        self.assertTrue(self.mooring("/chunked/300000?chunk=1000") == pattern(300000))

    def test_upload(self):
        body = pattern(9000000)
        self.assertTrue(self.mooring("-d", "@-", "/echo", stdin=body) == body)
        verdict = self.mooring("-d", "@-", "/sink", stdin=body)
        self.assertEqual(json.loads(verdict), {"bytes": 9000000, "matches": True})

    def test_waits(self):
        self.assertEqual(self.mooring("/delay/50"), b"delayed 50 ms\n")
        self.assertEqual(self.mooring("/drip?bytes=10&interval=5&piece=3"), pattern(10))

    def test_several_on_one_conn(self):
        before = self.stats()
        self.assertEqual(self.mooring("/bytes/1", "/bytes/2", "/close", "/bytes/3"),
                         pattern(1) + pattern(2) + b"closing\n" + pattern(3))
        self.assertEqual(self.stats()["h2_conns"] - before["h2_conns"], 2)

    def load(self, *arguments):
        report = json.loads(run(MOORING, "load", "--h2", "--json", "--shards", "1", *self.trusting,
                                *arguments))
        self.assertEqual(report["errors"], 0)
        return report

    def test_hundred_streams_on_one_conn(self):
        before = self.stats()
        report = self.load("-c", "1", "-m", "100", "-n", "3000", self.url("/bytes/1000"))
        self.assertEqual(report["requests"], 3000)
        after = self.stats()
        self.assertEqual(after["h2_conns"] - before["h2_conns"], 1)
        self.assertEqual(after["h2_requests"] - before["h2_requests"], 3000)

    def test_large_bodies_side_by_side(self):
        self.load("-c", "2", "-m", "20", "-n", "200", self.url("/bytes/300000"))


class OverTls:
    @classmethod
    def setUpClass(cls):
        cls.ca = path_of(cls.__name__ + ".pem")
        cls.origin = Origin("--tls", "--tls-ca-out", cls.ca, *cls.options)
        cls.trusting = ("--cacert", cls.ca)

    scheme = "https"
    insists = ("--http2",)

    def connect(self, **options):
        return TlsClient(self.origin.port, trust(self.ca), **options)

    def test_tls(self):
        lines = run("curl", "-s", *self.insists, *self.trusting, self.url("/tls")).splitlines()
        self.assertIn(b"alpn: h2", lines)


class RoutesOverTls(OverTls, Routes):
    pass


class OurProgramOverTls(OverTls, OurProgram):
    test_tls = has("curl")(OverTls.test_tls)

    def alpn(self, *options, origin=None):
        origin = origin or self.origin
        out = run(MOORING, "get", *options, "--cacert", self.ca,
                  f"https://localhost:{origin.port}/tls")
        return dict(line.split(": ", 1) for line in out.decode().splitlines())["alpn"]

    def test_alpn(self):
        self.assertEqual(self.alpn(), "h2")
        self.assertEqual(self.alpn("--http2"), "h2")
        self.assertEqual(self.alpn("--http1.1"), "http/1.1")

    def test_alpn_without_h2(self):
        ca = self.ca + ".no-h2"
        origin = Origin("--tls", "--tls-ca-out", ca, "--no-h2")
        self.addCleanup(origin.stop)
        get = (MOORING, "get", "--cacert", ca)
        url = f"https://localhost:{origin.port}/tls"
        self.assertIn(b"alpn: http/1.1\n", run(*get, url))
        run(*get, "--http2", url, code=35)


class OtherClients(H2Test):
    @has("nghttp")
    def test_nghttp(self):
        urls = [self.url(f"/bytes/{n}") for n in (1, 100000, 0, 3000000)]
        want = b"".join(pattern(n) for n in (1, 100000, 0, 3000000))
        self.assertEqual(len(run("nghttp", *urls)), len(want))  # in any order
        self.assertTrue(run("nghttp", urls[3]) == pattern(3000000))

    @has("nghttp")
    def test_nghttp_uploads(self):
        body = path_of("body")
        with open(body, "wb") as f:
            f.write(pattern(2000000))
        for options in ((), ("--expect-continue",), ("--trailer", "x: y"), ("--no-content-length",)):
            self.assertTrue(run("nghttp", "-d", body, *options, self.url("/echo")) ==
                            pattern(2000000), options)

    @has("h2load")
    def test_h2load(self):
        for target, count, conns, streams in (("/bytes/100", 20000, 4, 100),
                                              ("/bytes/200000", 300, 2, 50), ("/delay/30", 500, 1, 100),
                                              ("/chunked/5000?chunk=100", 500, 1, 128)):
            before = self.stats()
            out = run("h2load", "-n", count, "-c", conns, "-m", streams,
                      self.url(target).replace("localhost", "127.0.0.1")).decode()
            self.assertIn(f" {count} succeeded, 0 failed, 0 errored", out)
            after = self.stats()
            self.assertEqual(after["h2_requests"] - before["h2_requests"], count)
            self.assertEqual(after["h2_conns"] - before["h2_conns"], conns)

    @has("h2load")
    def test_h2load_uploads(self):
        body = path_of("load-body")
        with open(body, "wb") as f:
            f.write(pattern(100000))
        out = run("h2load", "-n", 400, "-c", 2, "-m", 50, "-d", body, self.url("/echo")).decode()
        self.assertIn(" 400 succeeded, 0 failed", out)
        received = int(re.search(r"\((\d+)\) data", out).group(1))
        self.assertEqual(received, 400 * 100000)


class OtherClientsOverTls(OverTls, OtherClients):
    test_tls = None


if __name__ == "__main__":
    unittest.main(verbosity=1)
