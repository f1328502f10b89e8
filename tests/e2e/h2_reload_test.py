#!/usr/bin/env python3
"""HTTP/2 under load while nginx reloads every second, and conns that fall into a black hole.

Usage: h2_reload_test.py PATH-OF-MOORING [unittest arguments]
Skipped (77) without nginx or openssl.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from blackhole import Hole  # noqa: E402
from h2_peer import BODY, Peer  # noqa: E402
from h2_servers import NGINX, Files, NginxServer  # noqa: E402
from mooring_case import WAIT_S, environment, run  # noqa: E402

MOORING = sys.argv.pop(1)
LOAD_S = 3
PING = {"MOORING_H2_PING_AFTER_MS": "100", "MOORING_H2_PING_TIMEOUT_MS": "500"}


class Program(unittest.TestCase):
    def start(self, *arguments, **settings):
        return subprocess.Popen([MOORING, *arguments], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                env=environment(**settings))

    def report(self, program, count=None):
        """Of a load without errors."""
        out, err = program.communicate(timeout=WAIT_S)
        seen = json.loads(out)
        self.assertEqual((program.returncode, seen["errors"], seen["unfinished"]), (0, 0, 0),
                         (seen["errors_by_kind"], err.decode()))
        if count:
            self.assertEqual(seen["requests"], count)
        return seen


class Served(Program):
    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory(prefix="mooring-h2-")
        cls.addClassCleanup(directory.cleanup)
        cls.files = Files(directory.name)
        cls.server = NginxServer(cls.files, requests=1000)
        cls.addClassCleanup(cls.server.close)

    def load(self, way, *options):
        return self.start("load", self.server.urls[way] + "/small", "--json", "--h2", *options,
                          MOORING_TLS_CA=str(self.files.cert))


class Reload(Served):
    def test_requests_per_conn_are_limited(self):
        for way in ("clear", "tls"):
            with self.subTest(way):
                seen = self.report(self.load(way, "-c", "1", "-m", "100", "-n", "20000"), 20000)
                self.assertGreaterEqual(seen["conns_opened"], 20)

    def test_reload_every_second(self):
        for way in ("clear", "tls"):
            with self.subTest(way):
                program = self.load(way, "-c", "2", "-m", "50", "-d", str(LOAD_S))
                for _ in range(LOAD_S):
                    time.sleep(0.7)
                    self.server.reload()
                seen = self.report(program)
                self.assertGreater(seen["requests"], 1000)
                self.assertGreater(seen["conns_opened"], 2)


class Many(Served):
    def test_a_hundred_thousand_while_it_reloads(self):
        for way in ("clear", "tls"):
            with self.subTest(way):
                program = self.load(way, "-c", "2", "-m", "50", "-n", "100000", "--rate", "6000")
                while program.poll() is None:
                    self.server.reload()
                    time.sleep(1)
                seen = self.report(program)
                self.assertEqual(seen["requests"], 100000)
                self.assertGreater(seen["conns_opened"], 100)


class Holes(Program):
    """The server answers; the path to it does not."""

    def pace(self, base, *more, **settings):
        return self.start("load", base, "--json", "--h2", "--shards", "1", *more,
                          **{**PING, **settings})

    def test_load_goes_on_elsewhere(self):
        with Peer() as peer, Hole(peer.port) as hole:
            program = self.pace(f"http://127.0.0.1:{hole.port}/", "-c", "2", "-m", "10", "-d", "3",
                                "--rate", "200")
            self.when(lambda: peer.answered > 50)
            hole.swallow()
            seen = self.report(program)
            self.assertGreater(hole.conns, 1)
            self.assertGreater(hole.swallowed, 0)
            self.assertGreater(seen["requests"], 100)
            # The PING's delay and timeout, a new conn, and what a busy machine adds.
            self.assertLess(seen["latency_us"]["max"], 8_000_000)

    def test_an_upload_from_a_pipe_ends_in_time(self):
        """What has been read from a pipe cannot be sent again: an error that says so, no hang."""
        with Peer() as peer, Hole(peer.port) as hole:
            program = self.start("get", "--http2", "-d", "@-", "--idempotent", "--timeout", "20s",
                                 f"http://127.0.0.1:{hole.port}/", **PING)
            self.when(lambda: peer.requests == 1)
            hole.swallow()
            _, err = program.communicate(b"the rest", timeout=WAIT_S)
            self.assertNotIn(program.returncode, (0, 28), err)
            self.assertGreater(program.returncode, 0, err)
            self.assertEqual(err.count(b"\n"), 1, err)

    def test_gets_in_flight_move(self):
        """The server holds its answer back while the path dies; another conn brings it."""
        with Peer("stall:once") as peer, Hole(peer.port) as hole:
            program = self.start("get", "--http2", "--timeout", "20s",
                                 f"http://127.0.0.1:{hole.port}/", **PING)
            self.when(lambda: peer.requests == 1)
            hole.swallow()
            out, err = program.communicate(timeout=WAIT_S)
            self.assertEqual((program.returncode, out, err), (0, BODY, b""))
            self.assertEqual(peer.conns, 2)

    def test_a_post_in_flight_is_not_repeated(self):
        with Peer("stall:once") as peer, Hole(peer.port) as hole:
            program = self.start("get", "--http2", "--timeout", "20s", "-d", "cargo",
                                 f"http://127.0.0.1:{hole.port}/", **PING)
            self.when(lambda: peer.requests == 1)
            hole.swallow()
            out, err = program.communicate(timeout=WAIT_S)
            self.assertNotIn(program.returncode, (0, 28), err)
            self.assertEqual((out, err.count(b"\n"), peer.requests), (b"", 1, 1), err)

    def test_without_a_hole_nothing_moves(self):
        with Peer() as peer, Hole(peer.port) as hole:
            self.report(self.pace(f"http://127.0.0.1:{hole.port}/", "-c", "1", "-m", "10", "-n",
                                  "500"), 500)
            self.assertEqual(hole.conns, 1)

    def when(self, true):
        end = time.monotonic() + WAIT_S
        while not true():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.01)


if __name__ == "__main__":
    if b"--http2" not in run(MOORING, "get", "--help")[1]:
        print("the program has no HTTP/2", file=sys.stderr)
        sys.exit(77)
    if not NGINX or not shutil.which("openssl"):
        print("nginx or openssl is not installed", file=sys.stderr)
        sys.exit(77)
    unittest.main()
