#!/usr/bin/env python3
"""mooring get, byte for byte, and its exit code and one line for every failure.

Usage: mooring_get_test.py PATH-OF-MOORING PATH-OF-MOORING-ORIGIN [unittest arguments]
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

from mooring_case import (WAIT_S, BlackHole, NoSuchName, Origin, closed_port, environment, pattern,
                          run)

MOORING, ORIGIN = sys.argv[1:3]
del sys.argv[1:3]
ROOT = Path(__file__).resolve().parents[2]
BUILD = r"(?m)^mooring \d.*; c-ares \d.*; wolfSSL \S.*; (gcc|clang) \d"


class GetTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.origin = Origin(ORIGIN)

    @classmethod
    def tearDownClass(cls):
        cls.origin.__exit__()

    def get(self, *arguments, **settings):
        """Arguments that start with '/' are origin's, but for the file of -o."""
        before = ("", *arguments)
        return run(MOORING, "get", *[self.origin.url(a) if a[:1] == "/" and b != "-o" else a
                                     for a, b in zip(arguments, before)], **settings)

    def body(self, *arguments, **settings):
        code, out, err = self.get(*arguments, **settings)
        self.assertEqual((code, err), (0, ""))
        return out

    def refused(self, code, what, *arguments, **settings):
        """The one line on standard error, after checking it and the exit code."""
        got, _, err = self.get(*arguments, **settings)
        self.assertEqual(got, code, err)
        self.assertRegex(err, rf"\Amooring get: [^\n]*{what}[^\n]*\n\Z")
        return err

    def file(self, content):
        f = tempfile.NamedTemporaryFile()
        self.addCleanup(f.close)
        f.write(content)
        f.flush()
        return f.name


class Bodies(GetTest):
    def test_every_length(self):
        for length in (0, 1, 250, 16384, 65536, 65537, 10_000_000):
            self.assertTrue(self.body(f"/bytes/{length}") == pattern(length), f"length {length}")

    def test_every_framing(self):
        for target, length in (("/chunked/0", 0), ("/chunked/100000?chunk=7000", 100000),
                               ("/chunked/3000000?chunk=131072", 3000000),
                               ("/drip?bytes=40&interval=5", 40),
                               ("/bad/eof-body?bytes=200000", 200000),
                               ("/bad/split-writes?bytes=30&after=1", 30)):
            self.assertTrue(self.body(target) == pattern(length), target)

    def test_no_body(self):
        for target in ("/status/204", "/status/304"):
            self.assertEqual(self.body(target), b"")
        self.assertEqual(self.body("-X", "HEAD", "/bytes/5000"), b"")

    def test_interim_answers_are_passed_over(self):
        self.assertEqual(self.body("/bad/1xx?count=3"), b"ok\n")

    def test_several_urls_share_a_connection(self):
        before = json.loads(self.origin.ask("/stats"))
        self.assertEqual(self.body("/bytes/3", "/chunked/4", "/bytes/100000"),
                         pattern(3) + pattern(4) + pattern(100000))
        after = json.loads(self.origin.ask("/stats"))
        self.assertEqual(after["accepted"] - before["accepted"], 2)  # and the one asking

    def test_chunks_are_written_as_they_come(self):
        with subprocess.Popen([MOORING, "get", self.origin.url("/bad/stall?after=1000")],
                              stdout=subprocess.PIPE, env=environment()) as program:
            got = b""
            while len(got) < 1000:
                got += os.read(program.stdout.fileno(), 4096)
            self.assertEqual(got, pattern(1000))
            self.assertIsNone(program.poll())
            program.kill()

    def test_slow_reader_holds_the_server_back(self):
        length = 60_000_000
        before = json.loads(self.origin.ask("/stats"))["bytes_out"]
        with subprocess.Popen([MOORING, "get", self.origin.url(f"/bytes/{length}")],
                              stdout=subprocess.PIPE, env=environment()) as program:
            time.sleep(1)
            # What both sockets, the pipe and the window may hold, with room: not the whole body.
            sent = json.loads(self.origin.ask("/stats"))["bytes_out"] - before
            self.assertLess(sent, length // 2)
            self.assertTrue(program.stdout.read() == pattern(length))
            self.assertEqual(program.wait(WAIT_S), 0)


class Options(GetTest):
    def test_include(self):
        out = self.body("-i", "/bytes/3")
        head, body = out.split(b"\r\n\r\n", 1)
        self.assertTrue(head.startswith(b"HTTP/1.1 200 OK\r\n"), head)
        self.assertIn(b"\r\nContent-Length: 3", head)
        self.assertEqual(body, pattern(3))

    def test_verbose(self):
        code, out, err = self.get("-v", "/bytes/3", "/bytes/4")
        self.assertEqual((code, out), (0, pattern(3) + pattern(4)))
        self.assertIn("< HTTP/1.1 200 OK\n", err)
        self.assertRegex(err, r"\* (io_uring|epoll)\n")
        self.assertRegex(err, r"for a new connection, first byte \S+ [um]?s, total \S+ [um]?s, "
                              r"0 bytes up, 3 down, 0 replays\n")
        self.assertIn("for a reused connection", err)

    def test_output_file(self):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "body"
            self.assertEqual(self.body("-o", str(path), "/bytes/1000"), b"")
            self.assertEqual(path.read_bytes(), pattern(1000))
            self.assertEqual(self.body("-o", str(path), "/bytes/0"), b"")
            self.assertEqual(path.read_bytes(), b"")
            path.write_bytes(b"kept")
            self.refused(22, "404", "--fail", "-o", str(path), "/nowhere")
            self.assertEqual(path.read_bytes(), b"kept")
            self.refused(23, "cannot write", "-o", directory, "/bytes/10")

    def test_headers(self):
        out = self.body("-H", "X-One: 1", "-H", "x-two:2", "/headers").decode()
        self.assertIn("X-One: 1\r\n", out)
        self.assertIn("x-two: 2\r\n", out)
        self.assertIn(f"Host: 127.0.0.1:{self.origin.port}\r\n", out)
        self.assertIn("User-Agent: mooring\r\n", out)
        out = self.body("-H", "user-agent: me", "/headers").decode()
        self.assertIn("user-agent: me\r\n", out)
        self.assertNotIn("User-Agent", out)

    def test_method(self):
        self.assertIn(b"X-Method: PUT\r\n", self.body("-i", "-X", "PUT", "-d", "a", "/echo"))
        self.assertIn(b"X-Method: POST\r\n", self.body("-i", "-d", "a", "/echo"))

    def test_data(self):
        self.assertEqual(self.body("-d", "some text", "/echo"), b"some text")
        self.assertEqual(self.body("-d", "", "/echo"), b"")
        for length in (0, 1, 65536, 65537, 5_000_000):
            name = self.file(pattern(length))
            sunk = json.loads(self.body("-d", f"@{name}", "/sink"))
            self.assertEqual(sunk, {"bytes": length, "matches": True})
        self.assertEqual(self.body("-d", "@" + self.file(b"twice"), "/echo", "/echo"), b"twice" * 2)

    def test_data_from_standard_input(self):
        for length in (0, 5, 3_000_000):
            self.assertTrue(self.body("-d", "@-", "/echo", stdin=pattern(length)) == pattern(length))

    def test_data_from_a_pipe_that_pauses(self):
        with subprocess.Popen([MOORING, "get", "-d", "@-", self.origin.url("/echo")],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              env=environment()) as program:
            for piece in (b"one", b"two", b"three"):
                program.stdin.write(piece)
                program.stdin.flush()
                time.sleep(0.1)
            program.stdin.close()
            self.assertEqual(program.stdout.read(), b"onetwothree")
            self.assertEqual(program.wait(WAIT_S), 0)

    def test_expect_continue(self):
        name = self.file(pattern(100000))
        self.assertIn(b"HTTP/1.1 100 Continue\r\n",
                      self.body("-i", "--expect-continue", "-d", f"@{name}", "/sink"))

    def test_userinfo_is_sent_and_never_shown(self):
        url = f"http://me:secret@127.0.0.1:{self.origin.port}"
        self.assertIn(b"Authorization: Basic bWU6c2VjcmV0\r\n", self.body(url + "/headers"))
        _, _, err = self.get("-v", "--fail", url + "/status/500")
        self.assertIn("***@127.0.0.1", err)
        self.assertNotIn("secret", err)

    def test_help(self):
        for command in ((), ("get",), ("load",), ("options",), ("version",), ("origin",)):
            code, out, err = run(MOORING, *command, "--help")
            self.assertEqual((code, err), (0, ""))
            self.assertIn(b"usage: mooring", out)
        for code in (0, 1, 2, 6, 7, 22, 23, 26, 27, 28, 56):
            self.assertRegex(run(MOORING, "get", "--help")[1].decode(), rf"(?m)^.* {code} ")


class Failures(GetTest):
    def test_wrong_usage(self):
        for arguments in ((), ("--nonsense", "/"), ("-H",), ("-H", "no colon", "/"),
                          ("--timeout", "x", "/"), ("--timeout", "0", "/"),
                          ("--timeout", "5y", "/"), ("-d", "@-", "/echo", "/echo")):
            self.refused(2, "--help", *arguments)
        for command in ("nonsense", "--nonsense"):
            code, out, err = run(MOORING, command)
            self.assertEqual((code, out), (2, b""))
            self.assertIn("unknown command", err)
        self.assertEqual(run(MOORING)[0], 2)

    def test_bad_urls(self):
        for url in ("127.0.0.1", "http://", "http://127.0.0.1:0/", "http://127.0.0.1:65536/",
                    "http://[::1/", "http://a b/", "http://h\u00e4fen.example/", "http://127.0.0.1/\n",
                    "gopher://127.0.0.1/"):
            code, out, err = self.get(url)
            self.assertIn(code, (1, 2), (url, err))
            self.assertEqual((out, err.count("\n")), (b"", 1), (url, err))

    def test_header_injection_is_refused(self):
        self.refused(2, "", "-H", "X: a\r\nY: b", "/headers")
        self.refused(2, "", "-X", "GET /\r\nX:", "/headers")

    def test_unknown_name(self):
        server = NoSuchName()
        self.addCleanup(server.close)
        self.refused(6, "did not resolve", "http://name.invalid/",
                     MOORING_DNS_SERVERS=server.address)

    def test_refused_connection(self):
        s, port = closed_port()
        self.addCleanup(s.close)
        self.refused(7, "could not connect.*refused", f"http://127.0.0.1:{port}/")

    def test_connect_timeout(self):
        hole = BlackHole()
        self.addCleanup(hole.close)
        if not hole.is_full:
            self.skipTest("the kernel does not fill a queue")
        begin = time.monotonic()
        self.refused(28, "", "--connect-timeout", "200", f"http://127.0.0.1:{hole.port}/")
        self.assertLess(time.monotonic() - begin, 5)

    def test_status(self):
        self.assertEqual(self.body("/status/503"), b"503\n")
        for status in (400, 404, 503):
            code, out, err = self.get("--fail", f"/status/{status}")
            self.assertEqual((code, out), (22, b""))
            self.assertIn(str(status), err)
        self.assertEqual(self.body("--fail", "/bytes/2"), pattern(2))

    def test_timeouts(self):
        for target in ("/bad/stall-head", "/bad/stall?after=10", "/delay/20000"):
            begin = time.monotonic()
            self.refused(28, "", "--timeout", "150ms", target)
            self.assertLess(time.monotonic() - begin, 5)

    def test_peers_that_break_off(self):
        for target in ("/bad/reset?after=1000", "/bad/short?bytes=100", "/bad/close-mid-head",
                       "/bad/reset-before"):
            self.refused(56, "", target)

    def test_peers_that_break_the_protocol(self):
        for target in ("/bad/garbage", "/bad/smuggle", "/bad/cl-conflict", "/bad/huge-headers"):
            self.refused(56, "", target)

    def test_idempotent_is_accepted(self):
        self.assertEqual(self.body("--idempotent", "-d", "x", "/echo"), b"x")

    def test_the_rest_goes_on_after_a_failure(self):
        code, out, err = self.get("/bad/garbage", "/bytes/5")
        self.assertEqual((code, out), (56, pattern(5)))
        self.assertEqual(err.count("\n"), 1)

    def test_conns_closed_while_idle_cost_nothing(self):
        self.assertEqual(self.body("/bad/close-idle?after=0", "/bytes/4", "/bad/reset-idle?after=0",
                                   "/bytes/5"), b"ok\n" + pattern(4) + b"ok\n" + pattern(5))

    def test_output_that_fails(self):
        with open("/dev/full", "wb") as full:
            program = subprocess.run([MOORING, "get", self.origin.url("/bytes/10")], stdout=full,
                                     stderr=subprocess.PIPE, check=False, env=environment())
        self.assertEqual(program.returncode, 23)
        self.assertIn(b"cannot write standard output", program.stderr)
        with subprocess.Popen([MOORING, "get", self.origin.url("/bytes/9000000")],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              env=environment()) as program:
            program.stdout.close()
            self.assertIn(b"cannot write", program.stderr.read())
            self.assertEqual(program.wait(WAIT_S), 23)

    def test_input_that_fails(self):
        self.refused(26, "cannot read", "-d", "@/nonexistent", "/echo")
        self.refused(26, "cannot read", "-d", "@/", "/echo")

    def test_bad_variables(self):
        for name, value, bound in (("MOORING_CONNS_MAX", "0", "1"),
                                   ("MOORING_POOL_GET_CONNS_MAX", "many", "1000000"),
                                   ("MOORING_IO_BACKEND", "kqueue", "epoll"),
                                   ("MOORING_RECV_BUFFERS", "7", "32768")):
            err = self.refused(2, name, "/bytes/1", **{name: value})
            self.assertIn(value, err)
            self.assertIn(bound, err)


class OtherCommands(unittest.TestCase):
    def test_options_name_every_variable(self):
        listed = (ROOT / "base" / "options.def").read_text()
        names = re.findall(r"^(?:RUNTIME|POOL)\(\w+, \w+, (\w+),", listed, re.MULTILINE)
        self.assertGreater(len(names), 40)
        for arguments in ((), ("--markdown",)):
            code, out, err = run(MOORING, "options", *arguments)
            self.assertEqual((code, err), (0, ""))
            for name in names:
                self.assertIn(f"MOORING_{name}", out.decode())
        self.assertEqual(run(MOORING, "options", "--nonsense")[0], 2)

    def test_manual_knows_what_the_help_says(self):
        manual = (ROOT / "man" / "mooring.1").read_text()
        for command in ("get", "load"):
            text = run(MOORING, command, "--help")[1].decode()
            for name in re.findall(r"^  --?([\w-]+)", text, re.MULTILINE):
                flag = name if len(name) == 1 else "-" + name
                if name != "help":
                    self.assertRegex(manual, rf"(?m)^\.It Fl {flag}\b", name)
        text = run(MOORING, "get", "--help")[1].decode().split("Exit status", 1)[1]
        for code in re.findall(r"(?:^|  ) ?(\d+) [a-z]", text, re.MULTILINE):
            self.assertIn(f"\n.It {code}\n", manual)

    def test_version(self):
        for name in ("version", "--version"):
            code, out, _ = run(MOORING, name)
            self.assertEqual(code, 0)
            self.assertRegex(out.decode(), BUILD)
        self.assertRegex(run(MOORING, "options")[1].decode(), BUILD)

    def test_version_is_first(self):
        self.assertRegex(run(MOORING, "version")[1].decode(), r"\Amooring \d+\.\d+\.\d+\n.+\n")

    def test_origin_is_the_one_beside(self):
        with subprocess.Popen([MOORING, "origin", "--port", "0"], stdout=subprocess.PIPE) as program:
            self.assertIn(b"listening on http://", program.stdout.readline())
            program.terminate()


unittest.main()
