#!/usr/bin/env python3
"""mooring load: its report as JSON and as text, pacing, errors, an early end, TLS.

Usage: mooring_load_test.py PATH-OF-MOORING PATH-OF-MOORING-ORIGIN [unittest arguments]
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest

from mooring_case import WAIT_S, Origin, closed_port, environment, run

MOORING, ORIGIN = sys.argv[1:3]
del sys.argv[1:3]
NUMBER = (int, float)
SCHEMA = {
    "requests": int, "errors": int, "errors_by_kind": dict, "unfinished": int, "seconds": NUMBER,
    "requests_per_second": NUMBER, "body_bytes": int, "latency_us": dict, "acquire_us": dict,
    "reuse": NUMBER, "conns_opened": int, "conns_open": int, "cpu_us_per_request": NUMBER,
    "syscalls_per_request": NUMBER, "memory_per_conn": (int, type(None)),
    "memory_private_dirty": (int, type(None)), "in_flight": int, "shards": int, "backend": str,
    "flushes": int, "tls": (dict, type(None)),
}
TLS_SCHEMA = {"handshakes": int, "resumed": int, "resumption": NUMBER, "failed": int,
              "handshake_us": dict, "after_flush": dict}


class LoadTest(unittest.TestCase):
    options = ()

    @classmethod
    def setUpClass(cls):
        cls.origin = Origin(ORIGIN, *cls.options)

    @classmethod
    def tearDownClass(cls):
        cls.origin.__exit__()

    def checked(self, text):
        """The one JSON object, its form checked."""
        self.assertEqual(text.count(b"\n"), 1)
        report = json.loads(text)
        self.assertEqual(set(report), set(SCHEMA))
        for key, kind in SCHEMA.items():
            self.assertIsInstance(report[key], kind, key)
        tls = report["tls"]
        if tls is not None:
            self.assertEqual({k: type(v) for k, v in tls.items() if k != "resumption"},
                             {k: v for k, v in TLS_SCHEMA.items() if k != "resumption"})
            self.assertEqual(list(tls["after_flush"]), ["handshakes", "resumption"])
            self.assertAlmostEqual(tls["resumption"], tls["resumed"] / max(1, tls["handshakes"]), 5)
        for times in (report["latency_us"], report["acquire_us"],
                      *([tls["handshake_us"]] if tls else [])):
            self.assertEqual(list(times), ["p50", "p99", "p999", "max"])
            # The library's histogram is within 1 %: neighbours may cross by that much.
            ordered = list(times.values())
            for low, high in zip(ordered, ordered[1:]):
                self.assertLessEqual(low, high * 1.02 + 0.1)
        self.assertEqual(sum(report["errors_by_kind"].values()), report["errors"])
        if "MOORING_IO_BACKEND" in os.environ:
            self.assertEqual(report["backend"], os.environ["MOORING_IO_BACKEND"])
        return report

    def load(self, target, *arguments, code=0, **settings):
        got, out, err = run(MOORING, "load", self.origin.url(target), "--json", *arguments,
                            **settings)
        self.assertEqual(got, code, err)
        return self.checked(out)


class Runs(LoadTest):
    def test_exact_count(self):
        for conc, shards, count in ((1, 1, 1), (3, 1, 500), (8, 2, 3001), (64, 2, 20)):
            report = self.load("/bytes/100", "-c", str(conc), "--shards", str(shards), "-n",
                               str(count))
            self.assertEqual((report["requests"], report["errors"]), (count, 0))
            self.assertEqual(report["body_bytes"], 100 * count)
            self.assertEqual(report["in_flight"], conc)
            self.assertLessEqual(report["conns_opened"], conc)

    def test_origin_agrees(self):
        before = json.loads(self.origin.ask("/stats"))
        report = self.load("/bytes/10", "-c", "16", "-n", "2000")
        after = json.loads(self.origin.ask("/stats"))
        self.assertEqual(after["requests"] - before["requests"], 2001)
        self.assertEqual(after["accepted"] - before["accepted"] - 1, report["conns_opened"])

    def test_for_a_time(self):
        report = self.load("/bytes/100", "-c", "8", "-d", "0.5")
        self.assertGreaterEqual(report["seconds"], 0.5)
        self.assertLess(report["seconds"], 5)
        self.assertGreater(report["requests"], 100)
        self.assertEqual(report["errors"], 0)
        self.assertGreater(report["reuse"], 0.9)
        self.assertGreater(report["cpu_us_per_request"], 0)
        self.assertGreater(report["syscalls_per_request"], 0)

    def test_latency_is_of_the_requests(self):
        report = self.load("/delay/50", "-c", "4", "-n", "12")
        self.assertGreaterEqual(report["latency_us"]["p50"], 49000)
        self.assertLess(report["acquire_us"]["p50"], 40000)

    def test_paced(self):
        report = self.load("/bytes/100", "-c", "16", "-d", "1", "--rate", "500")
        self.assertGreater(report["requests"], 400)
        self.assertLessEqual(report["requests"], 520)
        report = self.load("/bytes/100", "-c", "4", "-n", "50", "--rate", "200")
        self.assertEqual(report["requests"], 50)
        self.assertGreater(report["seconds"], 0.2)

    def test_paced_latency_counts_from_the_schedule(self):
        # One at a time takes 20 ms but is due every 5: the backlog must show.
        report = self.load("/delay/20", "-c", "1", "-n", "40", "--rate", "200")
        self.assertEqual(report["requests"], 40)
        self.assertGreater(report["latency_us"]["max"], 300_000)

    def test_large_bodies(self):
        report = self.load("/bytes/1000000", "-c", "4", "-n", "60")
        self.assertEqual((report["errors"], report["body_bytes"]), (0, 60_000_000))

    def test_request_as_asked(self):
        report = self.load("/echo", "-n", "10", "-c", "2", "--body", "12345", "-X", "PUT", "-H",
                           "X-A: b")
        self.assertEqual((report["errors"], report["body_bytes"]), (0, 50))

    def test_url_forms(self):
        for target, answers in (("?x=1", "http_4xx"), ("/bytes/5#part", None), ("", None)):
            code, out, _ = run(MOORING, "load", self.origin.base + target, "--json", "-n", "3", "-c",
                               "1")
            report = self.checked(out)
            self.assertEqual(report["requests"], 3, target)
            if answers is None:
                self.assertEqual(code, 0)

    def test_text(self):
        code, out, err = run(MOORING, "load", self.origin.url("/bytes/10"), "-c", "4", "-n", "200")
        self.assertEqual((code, err), (0, ""))
        for word in ("4 in flight", "requests", "200 in", "latency", "acquire", "p99.9", "reuse",
                     "errors         0", "per request"):
            self.assertIn(word, out.decode())

    def test_progress(self):
        _, out, err = run(MOORING, "load", self.origin.url("/bytes/10"), "-c", "2", "-d", "1.5",
                          "--json", "--progress")
        self.checked(out)
        self.assertRegex(err, r"\A +1 s  \d+ requests  \d+/s  0 failed  p99 \S+ \S+  2 connections\n")

    def test_interrupt_ends_early_with_the_report(self):
        for target in ("/bytes/10", "/delay/500"):
            with subprocess.Popen([MOORING, "load", self.origin.url(target), "-c", "4", "-d", "50",
                                   "--json", "--progress"], stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, env=environment()) as program:
                program.stderr.readline()
                program.send_signal(signal.SIGINT)
                out, _ = program.communicate(timeout=WAIT_S)
                self.assertEqual(program.returncode, 0)
                self.assertLess(self.checked(out)["seconds"], 20)

    def test_flush(self):
        report = self.load("/bytes/10", "-c", "4", "-d", "1", "--flush", "0.1")
        self.assertEqual((report["errors"], report["tls"]), (0, None))
        self.assertIn(report["flushes"], range(2, 11))
        # Not all conns there are come back between two flushes on a busy machine.
        self.assertIn(report["conns_opened"], range(4 + report["flushes"], 4 * 11 + 1))
        report = self.load("/bytes/10", "-c", "4", "-d", "0.3")
        self.assertEqual((report["flushes"], report["conns_opened"]), (0, 4))


class Tls(LoadTest):
    folder = tempfile.TemporaryDirectory(prefix="mooring-load-")
    ca = folder.name + "/ca.pem"
    options = ("--tls", "--tls-ca-out", ca)

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        cls.folder.cleanup()

    def secure(self, target, *arguments, **more):
        return self.load(target, "--cacert", self.ca, *arguments, **more)

    def test_full_handshakes(self):
        report = self.secure("/bytes/100", "-c", "8", "-n", "3000", MOORING_TLS_TICKETS_MAX="0")
        self.assertEqual((report["requests"], report["errors"]), (3000, 0))
        self.assertEqual(report["body_bytes"], 300_000)
        tls = report["tls"]
        self.assertEqual(tls["handshakes"], report["conns_opened"])
        self.assertGreater(tls["handshakes"], 0)
        self.assertEqual((tls["resumed"], tls["failed"]), (0, 0))
        self.assertGreater(tls["handshake_us"]["p50"], 10)
        self.assertGreaterEqual(tls["handshake_us"]["p99"], tls["handshake_us"]["p50"])
        self.assertEqual(tls["after_flush"], {"handshakes": 0, "resumption": 0})

    def test_handshakes_are_not_requests(self):
        report = self.secure("/delay/300", "-c", "2", "-n", "6")
        self.assertGreaterEqual(report["latency_us"]["p50"], 299_000)
        self.assertLess(report["tls"]["handshake_us"]["p50"], 299_000)

    def test_resumed_after_a_flush(self):
        report = self.secure("/bytes/100", "-c", "8", "-d", "1.5", "--flush", "0.2")
        self.assertEqual(report["errors"], 0)
        self.assertIn(report["flushes"], range(2, 8))
        again = report["tls"]["after_flush"]
        self.assertGreaterEqual(again["handshakes"], report["flushes"])
        self.assertGreater(again["resumption"], 0.99)
        self.assertLess(report["tls"]["resumption"], 1)  # the first ones had no ticket
        report = self.secure("/bytes/100", "-c", "8", "-d", "0.8", "--flush", "0.2",
                             MOORING_TLS_TICKETS_MAX="0")
        self.assertGreater(report["tls"]["after_flush"]["handshakes"], 0)
        self.assertEqual(report["tls"]["after_flush"]["resumption"], 0)

    def test_origin_agrees(self):
        seen = json.loads(self.secure_get("/stats"))
        report = self.secure("/bytes/10", "-c", "4", "-d", "0.7", "--flush", "0.2")
        after = json.loads(self.secure_get("/stats"))
        tls = report["tls"]
        self.assertEqual(after["handshakes"] - seen["handshakes"] - 1, tls["handshakes"])
        self.assertEqual(after["handshakes_resumed"] - seen["handshakes_resumed"], tls["resumed"])

    def secure_get(self, target):
        code, out, err = run(MOORING, "get", "--cacert", self.ca, self.origin.url(target))
        self.assertEqual(code, 0, err)
        return out

    def test_text_and_progress(self):
        code, out, err = run(MOORING, "load", self.origin.url("/bytes/10"), "--cacert", self.ca,
                             "-c", "4", "-d", "1.5", "--flush", "0.5", "--progress")
        self.assertEqual(code, 0, err)
        out = out.decode()
        self.assertRegex(out, r"(?m)^  handshake +p50 \S+ [um]?s, p99 ")
        self.assertRegex(out, r"(?m)^  handshakes +\d+, \d+\.\d\d % of them resumed; 0 failed$")
        self.assertRegex(out, r"(?m)^    after flush +\d+, 100\.00 % of them resumed$")
        self.assertIn("; flushed 2 times", out)
        self.assertRegex(err, r"\A +1 s  \d+ requests  \d+/s  0 failed  p99 \S+ \S+  \d+ connections\n")

    def test_failures(self):
        for arguments, why in ((("--server-name", "wrong.example"), "not for this host.*--server-name"),
                               (("--pin", "sha256/" + "A" * 43 + "="), "not pinned.*--pin")):
            code, out, err = run(MOORING, "load", self.origin.url("/bytes/1"), "--json", "--cacert",
                                 self.ca, "-c", "2", "-n", "4", *arguments)
            self.assertEqual(code, 1, err)
            report = self.checked(out)
            self.assertEqual((report["requests"], report["errors"]), (0, 4))
            self.assertGreater(report["errors_by_kind"]["MOOR_ETLS"], 0)
            self.assertGreater(report["tls"]["failed"], 0)
            self.assertEqual(report["tls"]["handshakes"], 0)
            self.assertRegex(err, rf"\Amooring load: [^\n]*first error: [^\n]*{why}[^\n]*\n\Z")

    def test_insecure_warns_in_the_log(self):
        for settings, warning in (({"MOORING_LOG": "warn"}, "WITHOUT VERIFICATION"), ({}, r"\A\Z")):
            code, out, err = run(MOORING, "load", self.origin.url("/bytes/1"), "--json",
                                 "--insecure", "-c", "1", "-n", "4", **settings)
            self.assertEqual((code, self.checked(out)["requests"]), (0, 4))
            self.assertRegex(err, warning)

    def test_nothing_starts_with_wrong_options(self):
        for arguments, why in ((("--cacert", "/nonexistent"), "/nonexistent: No such file"),
                               (("--cacert", ""), "--cacert"), (("--pin", "sha256/x"), "sha256/x"),
                               (("--tls-min", "1.1"), "--tls-min"), (("--flush", "0"), "--flush"),
                               (("--flush", "x"), "--flush"), (("--flush", "0.0001"), "--flush")):
            code, out, err = run(MOORING, "load", self.origin.url("/"), "-n", "1", *arguments)
            self.assertEqual((code, out, err.count("\n")), (2, b"", 1), (arguments, err))
            self.assertIn(why, err)


class Errors(LoadTest):
    def test_statuses(self):
        report = self.load("/status/503", "-c", "2", "-n", "20", code=1)
        self.assertEqual((report["requests"], report["errors"]), (20, 20))
        self.assertEqual(report["errors_by_kind"], {"http_5xx": 20})

    def test_resets(self):
        report = self.load("/bad/reset?after=100", "-c", "2", "-n", "20", code=1)
        self.assertEqual(report["requests"], 0)
        self.assertEqual(report["errors_by_kind"], {"MOOR_ERESET": 20})

    def test_nobody_listens(self):
        s, port = closed_port()
        self.addCleanup(s.close)
        begin = time.monotonic()
        code, out, err = run(MOORING, "load", f"http://127.0.0.1:{port}/", "--json", "-c", "2", "-d",
                             "0.5")
        self.assertEqual(code, 1)
        self.assertGreater(self.checked(out)["errors"] + self.checked(out)["unfinished"], 0)
        self.assertLess(time.monotonic() - begin, 30)
        self.assertEqual(err.count("\n"), 1, err)
        self.assertIn("refused", err)

    def test_timeouts(self):
        report = self.load("/bad/stall-head", "-c", "2", "-n", "4", "--timeout", "100", code=1)
        self.assertEqual(report["errors_by_kind"], {"MOOR_ETIMEDOUT": 4})

    def test_what_never_answers_is_given_up(self):
        report = self.load("/bad/stall-head", "-c", "2", "-d", "0.2")
        self.assertEqual((report["requests"], report["unfinished"]), (0, 2))

    def test_wrong_usage(self):
        for arguments in ((), ("-c", "0", "http://h/"), ("-n", "x", "http://h/"),
                          ("-d", "0", "http://h/"), ("-d", "nan", "http://h/"),
                          ("--rate", "0", "http://h/"), ("--shards", "65", "http://h/"),
                          ("http://h/", "http://i/"), ("--body", "@/nonexistent", "http://h/"),
                          ("no-url", "-n", "1"), ("http://127.0.0.1:0/", "-n", "1")):
            code, out, err = run(MOORING, "load", *arguments)
            self.assertEqual((code, out, err.count("\n")), (2, b"", 1), (arguments, err))

    def test_bad_variables(self):
        code, out, err = run(MOORING, "load", self.origin.url("/"), "-n", "1",
                             MOORING_POOL_LOAD_DIALS_MAX="0")
        self.assertEqual((code, out), (2, b""))
        for part in ("MOORING_POOL_LOAD_DIALS_MAX", '"0"', "10000"):
            self.assertIn(part, err)


unittest.main()
