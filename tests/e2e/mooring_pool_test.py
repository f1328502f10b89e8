#!/usr/bin/env python3
"""mooring pool and mooring ping: byte streams and http against the origin, and real databases.

Usage: mooring_pool_test.py PATH-OF-MOORING PATH-OF-MOORING-ORIGIN [unittest arguments]
The classes of databases also go by the name of their driver.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import db_servers
from mooring_case import WAIT_S, BlackHole, Origin, closed_port, environment, read_line, run

MOORING, ORIGIN = sys.argv[1:3]
del sys.argv[1:3]
NUMBER = (int, float)
SCHEMA = {
    "acquires": int, "queries": int, "seconds": NUMBER, "acquires_per_second": NUMBER, "errors": int,
    "errors_by_kind": dict, "error_examples": dict, "unfinished": int, "wait_us": dict,
    "query_us": dict, "reuse": NUMBER, "conns_opened": int, "conns_closed": int, "conns_open": int,
    "conns_idle": int, "dials_failed": int, "waiters_most": int, "leaks": int,
    "cpu_us_per_acquire": NUMBER, "syscalls_per_acquire": NUMBER,
    "memory_private_dirty": (int, type(None)), "threads": int, "conns_max": int, "shards": int,
    "backend": str,
}
SCHEMES = re.search(r"(?m)^schemes: (.*)$", run(MOORING, "version")[1].decode()).group(1).split()


class Case(unittest.TestCase):
    def checked(self, text):
        """The one JSON object, its form checked."""
        self.assertEqual(text.count(b"\n"), 1, text)
        report = json.loads(text)
        self.assertEqual(set(report), set(SCHEMA))
        for key, kind in SCHEMA.items():
            self.assertIsInstance(report[key], kind, key)
        for times in (report["wait_us"], report["query_us"]):
            self.assertEqual(list(times), ["p50", "p99", "p999", "max"])
            self.assertEqual(list(times.values()), sorted(times.values()))
        self.assertEqual(sum(report["errors_by_kind"].values()), report["errors"])
        self.assertEqual(list(report["errors_by_kind"]), list(report["error_examples"]))
        self.assertLessEqual(report["conns_idle"], report["conns_open"])
        self.assertLessEqual(report["queries"], report["acquires"])
        if "MOORING_IO_BACKEND" in os.environ:
            self.assertEqual(report["backend"], os.environ["MOORING_IO_BACKEND"])
        return report

    def pool(self, url, *arguments, code=0, **settings):
        got, out, err = run(MOORING, "pool", url, "--json", *arguments, **settings)
        self.assertEqual(got, code, err)
        return self.checked(out)

    def refused(self, command, *arguments, code, **settings):
        """Nothing but one line on standard error."""
        got, out, err = run(MOORING, command, *arguments, **settings)
        self.assertEqual((got, out, err.count("\n")), (code, b"", 1), (arguments, err))
        self.assertNotIn(db_servers.PASSWORD, err)
        self.assertNotIn(db_servers.QUOTED, err)
        return err

    def ping(self, url, *arguments, code=0, **settings):
        """Lines of the checks, and those of the summary."""
        got, out, err = run(MOORING, "ping", url, "--interval", "10", *arguments, **settings)
        self.assertEqual((got, err), (code, ""), out)
        lines = out.decode().splitlines()
        end = next(i for i, line in enumerate(lines) if line.startswith("---"))
        for number, line in enumerate(lines[:end], 1):
            self.assertTrue(line.startswith(f"{number}: "), line)
        return lines[:end], lines[end:]

    @contextlib.contextmanager
    def under_way(self, url, *arguments):
        """A run with a line a second; what it came to is in .report and .code afterwards."""
        class Outcome:
            report = code = err = None

        with subprocess.Popen([MOORING, "pool", url, "--json", "--progress", *arguments],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              env=environment()) as program:
            try:
                outcome = Outcome()
                outcome.program = program
                yield outcome
                out, err = program.communicate(timeout=WAIT_S)
            finally:
                program.kill()
        outcome.report, outcome.code, outcome.err = self.checked(out), program.returncode, err


class Peer:
    """Accepts, and lets `serve` talk to each connection."""

    def __init__(self, serve):
        self.serve = serve
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = "tcp://127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                s, _ = self.listener.accept()
                threading.Thread(target=self.talk, args=(s,), daemon=True).start()

    def talk(self, s):
        with s, contextlib.suppress(OSError):
            self.serve(s)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class Streams(Case):
    @classmethod
    def setUpClass(cls):
        cls.origin = Origin(ORIGIN, "--echo-port", "0")
        cls.addClassCleanup(cls.origin.__exit__)
        cls.url = "tcp://" + read_line(cls.origin.process.stdout).split(" ")[-1]

    def test_echo(self):
        for threads, conns, shards, count in ((1, 1, 1, 1), (4, 4, 2, 401), (8, 2, 1, 400)):
            report = self.pool(self.url, "-c", str(threads), "--conns", str(conns), "-n", str(count),
                               "--shards", str(shards), "--query", "ahoy\\n\\x00\\\\")
            self.assertEqual((report["acquires"], report["queries"]), (count, count))
            self.assertEqual((report["errors"], report["unfinished"]), (0, 0))
            self.assertEqual((report["threads"], report["conns_max"]), (threads, conns))
            self.assertIn(report["conns_opened"], range(1, conns + 1))
            self.assertEqual(report["shards"], shards)
            self.assertGreaterEqual(report["reuse"], 1 - conns / count)
            self.assertGreater(report["query_us"]["p50"], 0)
            self.assertGreater(report["wait_us"]["max"], 0)

    def test_acquire_and_release_alone(self):
        for arguments in ((), ("--no-query",)):
            report = self.pool(self.url, "-c", "2", "-n", "500", *arguments)
            self.assertEqual((report["acquires"], report["queries"], report["errors"]), (500, 0, 0))
            self.assertEqual(report["query_us"]["max"], 0)

    def test_for_a_time(self):
        report = self.pool(self.url, "-c", "3", "-d", "0.5", "--query", "x")
        self.assertGreaterEqual(report["seconds"], 0.5)
        self.assertLess(report["seconds"], 10)
        self.assertGreater(report["acquires"], 50)
        self.assertGreater(report["cpu_us_per_acquire"], 0)
        self.assertEqual(report["conns_open"], report["conns_idle"])

    def test_paced(self):
        report = self.pool(self.url, "-c", "8", "-d", "1", "--rate", "200", "--no-query")
        self.assertIn(report["acquires"], range(150, 211))
        report = self.pool(self.url, "-c", "4", "-n", "50", "--rate", "200")
        self.assertEqual(report["acquires"], 50)
        self.assertGreater(report["seconds"], 0.2)

    def test_paced_waits_count_from_the_schedule(self):
        # One holds for 20 ms, due is one every 5: the backlog must show.
        report = self.pool(self.url, "-c", "1", "-n", "40", "--rate", "200", "--hold-ms", "20")
        self.assertGreater(report["wait_us"]["max"], 300_000)

    def test_waits_for_who_holds(self):
        report = self.pool(self.url, "-c", "6", "--conns", "2", "-n", "24", "--hold-ms", "60.5")
        self.assertEqual((report["acquires"], report["errors"]), (24, 0))
        self.assertGreaterEqual(report["seconds"], 12 * 0.06)
        self.assertGreater(report["wait_us"]["p50"], 50_000)
        self.assertIn(report["waiters_most"], range(1, 6))

    def test_timeouts_tell_why(self):
        report = self.pool(self.url, "-c", "2", "--conns", "1", "-n", "2", "--hold-ms", "900",
                           "--timeout", "100", code=1)
        self.assertEqual((report["acquires"], report["errors_by_kind"]), (1, {"MOOR_ETIMEDOUT": 1}))
        self.assertIn("in use", report["error_examples"]["MOOR_ETIMEDOUT"])

    def test_text(self):
        code, out, err = run(MOORING, "pool", self.url, "-c", "2", "-n", "20", "--query", "x", "--rate",
                             "1000", "--hold-ms", "1")
        self.assertEqual((code, err), (0, ""))
        for word in ("2 threads, at most 2 connections", "1000 acquires/s asked for",
                     "each held for 1.00 ms", "20 in", "wait  ", "query  ", "p99.9", "reuse  ",
                     "opened", "errors         0", "per acquire"):
            self.assertIn(word, out.decode())

    def test_progress(self):
        with self.under_way(self.url, "-c", "2", "-d", "1.5", "--query", "x") as run_:
            line = read_line(run_.program.stderr)
        self.assertRegex(line, r"\A +1 s  \d+ acquires  \d+/s  0 failed  wait p99 \S+ \S+  "
                               r"\d connections, \d idle, 0 dials, \d waiting\Z")

    def test_interrupt_ends_early_with_the_report(self):
        for arguments in (("--query", "x"), ("--hold-ms", "60000"), ("--rate", "0.001")):
            with self.under_way(self.url, "-c", "4", "--conns", "2", "-d", "50", *arguments) as run_:
                read_line(run_.program.stderr)
                run_.program.send_signal(signal.SIGINT)
            self.assertEqual(run_.code, 0, run_.err)
            self.assertLess(run_.report["seconds"], 20)

    def test_what_does_not_end_is_given_up(self):
        with Peer(lambda s: [s.recv(100) for _ in "ab"]) as peer:
            report = self.pool(peer.url, "-c", "2", "--conns", "1", "-d", "0.3", "--query", "aye")
        self.assertEqual((report["errors"], report["unfinished"], report["acquires"]), (0, 2, 1))

    def test_what_is_no_echo(self):
        def other(s):
            while s.recv(100):
                s.sendall(b"nay")

        def short(s):
            s.recv(100)
            s.sendall(b"a")

        def silent(s):
            while s.recv(100):
                pass

        for serve, kind, text in ((other, "query no echo", "not what was sent"),
                                  (short, "query MOOR_ERESET", "1 of 3 bytes"),
                                  (silent, "query MOOR_ETIMEDOUT", "read")):
            with Peer(serve) as peer:
                report = self.pool(peer.url, "-c", "2", "-n", "4", "--query", "aye", "--timeout",
                                   "300", code=1)
            self.assertEqual((report["acquires"], report["queries"]), (4, 0))
            self.assertEqual(report["errors_by_kind"], {kind: 4})
            self.assertIn(text, report["error_examples"][kind])
            self.assertLessEqual(report["reuse"], 0.25)  # the one made before the run

    def test_unix_path(self):
        with tempfile.TemporaryDirectory() as folder:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(folder + "/s")
            listener.listen()
            self.addCleanup(listener.close)
            report = self.pool(f"unix:{folder}/s", "-c", "1", "-n", "10")
        self.assertEqual((report["acquires"], report["conns_opened"]), (10, 1))

    def test_ping_connects_each_time(self):
        checks, end = self.ping(self.url, "-n", "4")
        self.assertEqual(len(checks), 4)
        for line in checks:
            self.assertRegex(line, r"\A\d: connected in \S+ \w+\Z")
        self.assertRegex(end[0], r"\A--- tcp://\S+: 4 checks, 0 failed\Z")
        self.assertRegex(end[1], r"\Aconnect +min .*, avg .*, max ")
        self.assertEqual(len(end), 2)

    def test_ping_with_an_echo_keeps_the_connection(self):
        checks, end = self.ping(self.url, "-n", "3", "--query", "ahoy")
        self.assertRegex(checks[0], r"\A1: connected in .*, round trip \S+ \w+\Z")
        for line in checks[1:]:
            self.assertRegex(line, r"\A\d: acquired in .*, round trip \S+ \w+\Z")
        self.assertRegex("\n".join(end), r"\A--- .*\nconnect +min .*\nround trip min .*, avg .*, max .*\Z")
        checks, _ = self.ping(self.url, "-n", "3", "--query", "ahoy", "--new")
        for line in checks:
            self.assertRegex(line, "connected in .*round trip")

    def test_ping_interrupted(self):
        with subprocess.Popen([MOORING, "ping", self.url, "-n", "0", "--interval", "1h"],
                              stdout=subprocess.PIPE, env=environment()) as program:
            self.assertIn("1: connected", read_line(program.stdout))
            program.send_signal(signal.SIGINT)
            out, _ = program.communicate(timeout=WAIT_S)
        self.assertEqual(program.returncode, 0)
        self.assertIn(b"1 check, 0 failed", out)

    def test_ping_of_who_says_nothing(self):
        with Peer(lambda s: s.recv(100) and s.recv(100)) as peer:
            checks, _ = self.ping(peer.url, "-n", "2", "--query", "x", "--timeout", "200", code=1)
        for line in checks:
            self.assertRegex(line, "failed: MOOR_ETIMEDOUT: ")


class Tls(Case):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="mooring-pool-")
        cls.addClassCleanup(folder.cleanup)
        cls.ca = folder.name + "/ca.pem"
        cls.origin = Origin(ORIGIN, "--tls", "--tls-ca-out", cls.ca)
        cls.addClassCleanup(cls.origin.__exit__)
        cls.url = f"tls://localhost:{cls.origin.port}"

    def test_handshakes(self):
        report = self.pool(self.url, "--cacert", self.ca, "-c", "2", "-n", "50")
        self.assertEqual((report["acquires"], report["errors"]), (50, 0))
        for url in (self.url, self.origin.base.replace("127.0.0.1", "localhost")):
            checks, _ = self.ping(url, "-n", "2", "--cacert", self.ca)
            self.assertRegex(checks[0], r"connected in .* \(of it TLS \S+ \w+\)")

    def test_distrust(self):
        err = self.refused("pool", self.url, "-n", "1", code=60)
        self.assertIn("--cacert", err)
        checks, _ = self.ping(self.url, "-n", "2", code=1)
        for line in checks:
            self.assertRegex(line, "failed: .*no trusted authority")


class Http(Case):
    @classmethod
    def setUpClass(cls):
        cls.origin = Origin(ORIGIN)
        cls.addClassCleanup(cls.origin.__exit__)

    def test_head_requests(self):
        before = json.loads(self.origin.ask("/stats"))
        checks, end = self.ping(self.origin.url("/bytes/1000?x#y"), "-n", "3")
        after = json.loads(self.origin.ask("/stats"))
        self.assertRegex(checks[0], r"\A1: connected in .*, round trip .*, HTTP/1.1 200, mooring-origin\Z")
        for line in checks[1:]:
            self.assertRegex(line, r"\A\d: acquired in .*, round trip \S+ \w+\Z")
        self.assertIn("3 checks, 0 failed", end[0])
        self.assertEqual(after["requests"] - before["requests"], 4)
        self.assertEqual(after["accepted"] - before["accepted"], 2)
        checks, _ = self.ping(self.origin.url("/"), "-n", "3", "--new")
        self.assertEqual(sum("connected" in line for line in checks), 3)

    def test_failures(self):
        checks, end = self.ping(self.origin.url("/status/503"), "-n", "2", code=1)
        self.assertIn("failed: the server answered 503", checks[0])
        self.assertIn("2 checks, 2 failed", end[0])
        self.ping(self.origin.url("/status/404"), "-n", "1")
        checks, _ = self.ping(self.origin.url("/bad/stall-head"), "-n", "1", "--timeout", "200", code=1)
        self.assertIn("deadline passed", checks[0])

    def test_not_for_pool(self):
        self.assertIn("mooring load", self.refused("pool", self.origin.base, code=2))


class Unreachable(Case):
    def test_nobody_listens(self):
        s, port = closed_port()
        self.addCleanup(s.close)
        url = f"tcp://127.0.0.1:{port}"
        begin = time.monotonic()
        self.assertIn("refused", self.refused("pool", url, "-d", "60", code=7))
        self.assertLess(time.monotonic() - begin, 30)
        checks, end = self.ping(url, "-n", "2", code=1)
        for line in checks:
            self.assertRegex(line, "failed: could not connect: .*refused")
        self.assertIn("2 checks, 2 failed", end[0])
        for scheme in ("postgres", "mysql", "redis", "ssh"):
            if scheme in SCHEMES:
                err = self.refused("pool", f"{scheme}://u:{db_servers.QUOTED}@127.0.0.1:{port}", code=7)
                self.assertRegex(err, r"refused|\(111\)")

    def test_no_answer_to_the_connect(self):
        hole = BlackHole()
        self.addCleanup(hole.close)
        if not hole.is_full:
            self.skipTest("this kernel takes every connection")
        self.refused("pool", f"tcp://127.0.0.1:{hole.port}", "--timeout", "300", code=28)
        checks, _ = self.ping(f"tcp://127.0.0.1:{hole.port}", "-n", "1", "--timeout", "300", code=1)
        self.assertIn("deadline passed", checks[0])

    def test_wrong_usage(self):
        url = "tcp://127.0.0.1:1"
        for arguments in ((), ("-c", "0", url), ("-c", "5000", url), ("-n", "x", url), ("-d", "0", url),
                          ("--rate", "0", url), ("--rate", "nan", url), ("--hold-ms", "-1", url),
                          ("--shards", "65", url), ("--conns", "0", url), ("--dials", "0", url),
                          ("--min-idle", "x", url), ("--timeout", "0", url), ("--query", "", url),
                          ("--query", "\\q", url), ("--query", "\\x1", url), (url, url), (url, "--x"),
                          ("--query", "a", "--no-query", url), ("no-url",), ("gopher://h:1",),
                          ("tcp://h",), (url + "/path",), ("tls://127.0.0.1:1", "--cacert", "/nonexistent")):
            self.refused("pool", *arguments, code=2)
        for arguments in ((), ("-n", "-1", url), ("--interval", "0", url), ("--timeout", "x", url),
                          (url, url), ("no-url",), ("gopher://h:1",), ("tcp://h",), ("http://",),
                          ("http://h/", "--query", "x"), (url, "--query", "\\q")):
            self.refused("ping", *arguments, code=2)

    def test_secrets_are_masked(self):
        secret = "u:hush@h/x?a=b&sslPassword=hush&pass=&c#d"
        for command in ("pool", "ping"):
            self.assertNotIn("hush", self.refused(command, "tcp://" + secret, code=2))
            self.assertIn("gopher://***@h/x?a=b&sslPassword=*&pass=&c#d:",
                          self.refused(command, "gopher://" + secret, code=2))

    def test_bad_variables(self):
        for command in ("pool", "ping"):
            name = f"MOORING_POOL_{command.upper()}_DIALS_MAX"
            err = self.refused(command, "tcp://127.0.0.1:1", code=2, **{name: "0"})
            self.assertIn(name, err)

    def test_drivers_that_were_not_built(self):
        for scheme, library in (("postgres", "libpq"), ("mariadb", "libmariadb"),
                                ("rediss", "hiredis"), ("ssh", "libssh")):
            if scheme not in SCHEMES:
                for command in ("pool", "ping"):
                    err = self.refused(command, f"{scheme}://u:{db_servers.QUOTED}@h/x", code=2)
                    self.assertIn("built without", err)
                    self.assertIn(library, err)


class Database(Case):
    """What holds of every database; made a test for each below."""

    server_class = scheme = None
    wrong_text = "harpoon"
    query = wrong_query = slow_query = wrong_kind = slow_url = version = None

    @classmethod
    def setUpClass(cls):
        if cls.scheme not in SCHEMES:
            raise unittest.SkipTest(f"this build has no driver for {cls.scheme}")
        if not cls.server_class.is_installed():
            raise unittest.SkipTest(f"not installed: {' '.join(cls.server_class.programs)}")
        cls.server = cls.server_class()
        cls.addClassCleanup(cls.server.close)
        cls.url = cls.server.url
        cls.stranger = cls.url.replace(db_servers.QUOTED, "guess%2Fed")

    def test_usual_query(self):
        for threads, conns in ((1, 1), (8, 4)):
            report = self.pool(self.url, "-c", str(threads), "--conns", str(conns), "-n", "300")
            self.assertEqual((report["acquires"], report["queries"], report["errors"]), (300, 300, 0))
            self.assertIn(report["conns_opened"], range(1, conns + 1))
            self.assertGreaterEqual(report["reuse"], 1 - conns / 300)

    def test_query_of_ones_own(self):
        report = self.pool(self.url, "-c", "2", "-n", "20", "--query", self.query)
        self.assertEqual((report["queries"], report["errors"]), (20, 0))
        report = self.pool(self.url, "-c", "2", "-n", "2000", "--no-query")
        self.assertEqual((report["acquires"], report["queries"], report["errors"]), (2000, 0, 0))

    def test_min_idle(self):
        report = self.pool(self.url, "-c", "1", "--conns", "5", "--min-idle", "3", "-d", "1")
        self.assertIn(report["conns_opened"], (3, 4))

    def test_wrong_query_is_counted_and_the_connection_kept(self):
        report = self.pool(self.url, "-c", "1", "-n", "5", "--query", self.wrong_query, code=1)
        self.assertEqual((report["queries"], report["errors_by_kind"]), (0, {self.wrong_kind: 5}))
        self.assertIn(self.wrong_text, report["error_examples"][self.wrong_kind].lower())
        self.assertEqual(report["conns_opened"], 1)

    def test_wrong_password(self):
        for command in ("pool", "ping"):
            got, out, err = run(MOORING, command, self.stranger, "-n", "1")
            self.assertEqual(got, 67 if command == "pool" else 1, err)
            said = err + out.decode()
            self.assertIn("credentials", said)
            self.assertIn("check user, password and keys", said)
            self.assertNotIn("guess", said)

    def test_queries_that_take_too_long_are_cut(self):
        begin = time.monotonic()
        report = self.pool(self.url, "-c", "2", "-n", "2", "--query", self.slow_query, "--timeout",
                           "400", code=1)
        self.assertLess(time.monotonic() - begin, 20)
        self.assertEqual(report["errors_by_kind"], {"query MOOR_ETIMEDOUT": 2})
        # This bounds the connect, too: long enough for a login on a busy machine.
        checks, _ = self.ping(self.url, "-n", "1", "--query", self.slow_query, "--timeout", "3000",
                              code=1)
        self.assertIn("failed: MOOR_ETIMEDOUT", checks[0])

    def test_interrupt_cuts_what_runs(self):
        with self.under_way(self.url, "-c", "3", "--conns", "2", "-d", "50", "--query",
                            self.slow_query) as run_:
            read_line(run_.program.stderr)
            run_.program.send_signal(signal.SIGINT)
            time.sleep(0.5)
            run_.program.send_signal(signal.SIGINT)
        self.assertLess(run_.report["seconds"], 25)
        self.assertEqual((run_.report["errors"], run_.report["unfinished"]), (0, 3))

    def test_restart_under_load(self):
        try:
            with self.under_way(self.url, "-c", "4", "-d", "4", "--rate", "400", "--timeout",
                                "500") as run_:
                read_line(run_.program.stderr)
                self.server.stop()
                time.sleep(0.7)
                self.server.start()
        finally:
            if not self.server.process:
                self.server.start()
        report = run_.report
        self.assertEqual(run_.code, 1)
        self.assertGreater(report["errors"], 0)
        self.assertGreater(report["acquires"], 50)  # the server may be slow to start
        self.assertGreater(report["conns_opened"], 1)
        self.assertGreater(report["dials_failed"], 0)
        # It came back by itself: what is idle at the end was made afterwards.
        self.assertGreater(report["conns_idle"], 0)
        self.assertEqual(report["unfinished"], 0)

    def test_leaks_are_counted(self):
        report = self.pool(self.url, "-c", "2", "-n", "2", "--hold-ms", "2500",
                           MOORING_POOL_POOL_LEAK_AFTER_MS="100")
        self.assertEqual((report["leaks"], report["errors"]), (2, 0))

    def test_ping(self):
        checks, end = self.ping(self.url, "-n", "3")
        self.assertRegex(checks[0], rf"\A1: connected in .*, round trip .*, {self.version}")
        for line in checks[1:]:
            self.assertRegex(line, r"\A\d: acquired in .*, round trip \S+ \w+\Z")
        self.assertIn("3 checks, 0 failed", end[0])
        self.assertNotIn(db_servers.QUOTED, end[0])
        self.assertEqual(len(end), 3)
        checks, _ = self.ping(self.url, "-n", "2", "--new", "--query", self.query)
        for line in checks:
            self.assertRegex(line, "connected in .*, round trip")


class PostgreSQL(Database):
    server_class, scheme = db_servers.PostgreSQL, "postgres"
    query = "SELECT generate_series(1, 500)"
    wrong_query, wrong_kind = "SELECT 1 FROM harpoon", "query SQLSTATE 42P01"
    slow_query = "SELECT pg_sleep(40)"
    version = r"PostgreSQL \d+"

    def test_transactions_left_open_do_not_reach_the_next(self):
        report = self.pool(self.url, "-c", "1", "-n", "20", "--query", "BEGIN")
        self.assertEqual((report["queries"], report["errors"]), (20, 0))


class MariaDB(Database):
    server_class, scheme = db_servers.MariaDB, "mysql"
    query = "SELECT seq FROM seq_1_to_500"
    wrong_query, wrong_kind = "SELECT 1 FROM harpoon", "query error 1146"
    slow_query = "SELECT SLEEP(40)"
    version = r"\d+\.\d+\.\d+-MariaDB"


class Redis(Database):
    server_class, scheme = db_servers.Redis, "redis"
    query = "INCRBY voyages 2"
    wrong_query, wrong_kind = "HARPOON 1", "query ERR"
    slow_query = "BLPOP nothing 40"
    version = r"Redis \d+"


class Ssh(Database):
    server_class, scheme = db_servers.OpenSSH, "ssh"
    query = "echo ahoy; seq 1000 >&2"
    wrong_query, wrong_kind = "exit 3 # harpoon", "query exit 3"
    wrong_text = "the command failed"
    slow_query = "sleep 40"
    version = r"SSH-2.0-OpenSSH"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.stranger = cls.url.replace("/key&", "/stranger&")

    def test_unknown_host_key(self):
        err = self.refused("pool", self.url.replace("/known", "/passwd"), "-n", "1", code=67)
        self.assertRegex(err, "host key SHA256:[^ ]+ is not in ")


del Database  # unittest would find it, too
NAMES = {"postgres": "PostgreSQL", "mysql": "MariaDB", "redis": "Redis", "ssh": "Ssh"}
unittest.main(argv=[sys.argv[0], *(NAMES.get(word, word) for word in sys.argv[1:])])
