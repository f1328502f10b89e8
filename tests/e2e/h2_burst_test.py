#!/usr/bin/env python3
"""1,000 requests at once over HTTP/2, cold: how many conns are dialled, counted on the way.

Usage: h2_burst_test.py PATH-OF-MOORING PATH-OF-MOORING-ORIGIN [unittest arguments]
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

import h2_servers
from dam import Dam
from h2_servers import Files, Nghttpd
from mooring_case import WAIT_S, Origin, environment

MOORING, ORIGIN = sys.argv[1:3]
del sys.argv[1:3]
REQUESTS, STREAMS = 1000, 100  # streams a conn: nghttpd allows as many, we want no more
CONNS = REQUESTS // STREAMS


class Burst(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory(prefix="mooring-h2-")
        cls.addClassCleanup(directory.cleanup)
        cls.directory = directory.name

    def burst(self, scheme, port, target, shards, **settings):
        """Conns at the dam before it opened, and in all; of a load without errors."""
        with Dam(port) as dam, subprocess.Popen(
                [MOORING, "load", f"{scheme}://127.0.0.1:{dam.port}{target}", "--json", "--h2",
                 "-c", str(REQUESTS), "-n", str(REQUESTS), "--shards", str(shards)],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env=environment(**settings)) as program:
            end = time.monotonic() + WAIT_S
            while dam.conns < CONNS and program.poll() is None:
                self.assertLess(time.monotonic(), end, f"{dam.conns} conns only")
                time.sleep(0.01)
            time.sleep(0.3)  # for dials there should not be
            held = dam.conns
            dam.open()
            out, err = program.communicate(timeout=WAIT_S)
            seen = json.loads(out)
            self.assertEqual((program.returncode, seen["requests"], seen["errors"]),
                             (0, REQUESTS, 0), (seen["errors_by_kind"], err.decode()))
            self.assertEqual(seen["conns_opened"], dam.conns)
            return held, dam.conns

    def each(self, scheme, port, target, **settings):
        for shards, most in ((1, CONNS), (2, CONNS + 1)):
            # As many dials at a time as want to be: none is left out for being too many.
            with self.subTest(scheme, shards=shards):
                held, conns = self.burst(scheme, port, target, shards,
                                         MOORING_DIALS_MAX="64", **settings)
                self.assertIn(held, range(CONNS, most + 1))
                self.assertEqual(held, conns)


class OriginTest(Burst):
    def test_clear(self):
        with Origin(ORIGIN) as origin:
            self.each("http", origin.port, "/bytes/1")

    def test_tls(self):
        ca = self.directory + "/ca.pem"
        with Origin(ORIGIN, "--tls", "--tls-ca-out", ca) as origin:
            self.each("https", origin.port, "/bytes/1", MOORING_TLS_CA=ca)


@unittest.skipUnless(h2_servers.NGHTTPD and shutil.which("openssl"), "nghttpd is not installed")
class NghttpdTest(Burst):
    def test_both(self):
        files = Files(self.directory)
        server = Nghttpd(files)
        self.addCleanup(server.close)
        for way, url in server.urls.items():
            scheme, port = url.split(":")[0], int(url.rsplit(":", 1)[1])
            with self.subTest(way):
                self.each(scheme, port, "/1", MOORING_TLS_CA=str(files.cert))


if __name__ == "__main__":
    unittest.main()
