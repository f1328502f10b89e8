#!/usr/bin/env python3
"""Every route of mooring-origin, byte for byte, over plain sockets.

Usage: origin_test.py PATH-OF-MOORING-ORIGIN [unittest arguments]
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

ORIGIN = sys.argv.pop(1) if len(sys.argv) > 1 else "mooring-origin"
WAIT_S = 10  # far above what any answer takes; a test that needs it has failed


def pattern(length, start=0):
    period = bytes(i * 131 % 251 for i in range(251))
    whole = period * ((start + length) // 251 + 1)
    return whole[start:start + length]


class Origin:
    def __init__(self, *options):
        self.process = subprocess.Popen([ORIGIN, *options], stdout=subprocess.PIPE)
        self.line = self.read_line()
        self.port = int(self.line.rsplit(":", 1)[1]) if "unix:" not in self.line else 0

    def read_line(self):
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self.process.stdout], [], [], WAIT_S)
            piece = os.read(self.process.stdout.fileno(), 1) if ready else b""
            if not piece:
                raise AssertionError(f"origin did not start: {line!r}")
            line += piece
        return line.decode().rstrip("\n")

    def stop(self, by=signal.SIGTERM):
        self.process.send_signal(by)
        code = self.process.wait(WAIT_S)
        self.process.stdout.close()
        return code


class Client:
    """A socket that counts what it read."""

    def __init__(self, port, host="127.0.0.1", receive_buffer=None):
        self.s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        if receive_buffer:
            self.s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.s.settimeout(WAIT_S)
        self.s.connect((host, port))
        self.rest = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.s.close()

    def send(self, data):
        self.s.sendall(data)
        return self

    def get(self, target, fields="", version="1.1", method="GET"):
        return self.send(f"{method} {target} HTTP/{version}\r\nHost: t\r\n{fields}\r\n".encode())

    def read(self, length):
        while len(self.rest) < length:
            piece = self.s.recv(1 << 16)
            if not piece:
                raise EOFError(f"ended after {self.rest[:200]!r}, {length} wanted")
            self.rest += piece
        out, self.rest = self.rest[:length], self.rest[length:]
        return out

    def read_head(self):
        while b"\r\n\r\n" not in self.rest:
            piece = self.s.recv(1 << 16)
            if not piece:
                raise EOFError(f"ended inside the head {self.rest[:200]!r}")
            self.rest += piece
        head, self.rest = self.rest.split(b"\r\n\r\n", 1)
        lines = head.decode("latin-1").split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines[1:])
        return lines[0], fields

    def read_chunks(self):
        chunks = []
        while True:
            line = b""
            while not line.endswith(b"\r\n"):
                line += self.read(1)
            size = int(line, 16)
            chunk = self.read(size)
            if self.read(2) != b"\r\n":
                raise AssertionError("chunk without CRLF")
            if size == 0:
                return chunks
            chunks.append(chunk)

    def answer(self, method="GET"):
        status, fields = self.read_head()
        body = b""
        if method == "HEAD":
            pass
        elif fields.get("transfer-encoding") == "chunked":
            body = b"".join(self.read_chunks())
        elif "content-length" in fields:
            body = self.read(int(fields["content-length"]))
        return int(status.split(" ")[1]), fields, body

    def read_to_end(self):
        """All up to FIN; raises ConnectionResetError on RST."""
        while True:
            piece = self.s.recv(1 << 16)
            if not piece:
                out, self.rest = self.rest, b""
                return out
            self.rest += piece

    def is_silent(self, seconds=0.15):
        readable, _, _ = select.select([self.s], [], [], seconds)
        return not self.rest and not readable


class OriginTest(unittest.TestCase):
    options = ("--threads", "2")
    scheme = "http"

    @classmethod
    def setUpClass(cls):
        cls.origin = Origin(*cls.options)

    @classmethod
    def tearDownClass(cls):
        code = cls.origin.stop()
        assert code == 0, f"origin ended with {code}"

    def connect(self, **options):
        return Client(self.origin.port, **options)

    def client(self, **options):
        c = self.connect(**options)
        self.addCleanup(c.s.close)
        return c

    def ask(self, target, **options):
        return self.client().get(target, **options).answer(options.get("method", "GET"))

    def stats(self):
        with self.connect() as c:
            return json.loads(c.get("/stats").answer()[2])


class GoodRoutes(OriginTest):
    def test_ready_line(self):
        self.assertRegex(self.origin.line, rf"^listening on {self.scheme}://127\.0\.0\.1:\d+$")

    def test_bytes_exact_answer(self):
        want = (b"HTTP/1.1 200 OK\r\nServer: mooring-origin\r\n"
                b"Content-Type: application/octet-stream\r\nContent-Length: 300\r\n\r\n")
        got = self.client().get("/bytes/300").read(len(want) + 300)
        self.assertEqual(got, want + pattern(300))

    def test_bytes_of_many_lengths_on_one_conn(self):
        c = self.client()
        for length in (0, 1, 250, 251, 252, 16384, 16385, 65511, 65512, 1000003, 5000000):
            status, fields, body = c.get(f"/bytes/{length}").answer()
            self.assertEqual((status, fields["content-length"]), (200, str(length)))
            self.assertTrue(body == pattern(length), f"length {length}")
        self.assertTrue(c.is_silent(0.02))

    def test_bytes_refuses_what_is_no_number(self):
        for target in ("/bytes/", "/bytes/-1", "/bytes/1x", "/bytes/99999999999999999999999"):
            self.assertEqual(self.ask(target)[0], 400, target)

    def test_chunked(self):
        for length, chunk in ((0, 10), (10, 3), (100, 100), (70000, 4096), (300000, 131072)):
            c = self.client().get(f"/chunked/{length}?chunk={chunk}")
            self.assertEqual(c.read_head()[1]["transfer-encoding"], "chunked")
            chunks = c.read_chunks()
            self.assertTrue(b"".join(chunks) == pattern(length))
            self.assertEqual([len(x) for x in chunks],
                             [min(chunk, length - i) for i in range(0, length, chunk)])

    def test_chunked_exact_bytes(self):
        c = self.client().get("/chunked/5?chunk=2")
        c.read_head()
        p = pattern(5)
        want = (b"2\r\n" + p[:2] + b"\r\n2\r\n" + p[2:4] + b"\r\n1\r\n" + p[4:] +
                b"\r\n0\r\n\r\n")
        self.assertEqual(c.read(len(want)), want)

    def test_chunked_over_http_1_0_ends_with_the_conn(self):
        c = self.client().get("/chunked/5000", version="1.0", fields="Connection: keep-alive\r\n")
        status, fields = c.read_head()
        self.assertNotIn("transfer-encoding", fields)
        self.assertEqual(fields["connection"], "close")
        self.assertEqual(c.read_to_end(), pattern(5000))

    def test_delay(self):
        begin = time.monotonic()
        status, _, body = self.ask("/delay/120")
        self.assertEqual((status, body), (200, b"delayed 120 ms\n"))
        self.assertGreaterEqual(time.monotonic() - begin, 0.119)

    def test_delays_run_side_by_side(self):
        clients = [self.client().get("/delay/200") for _ in range(20)]
        begin = time.monotonic()
        for c in clients:
            self.assertEqual(c.answer()[0], 200)
        self.assertLess(time.monotonic() - begin, 2)

    def test_status(self):
        for status in (200, 201, 301, 400, 404, 429, 500, 503, 599, 999):
            got, fields, body = self.ask(f"/status/{status}")
            self.assertEqual((got, body), (status, f"{status}\n".encode()))
        for status in (204, 205, 304):
            c = self.client().get(f"/status/{status}").get("/bytes/3")
            got, fields, body = c.answer()
            self.assertEqual((got, body), (status, b""))
            self.assertEqual(c.answer()[2], pattern(3))
        self.assertNotIn("content-length", self.ask("/status/204")[1])
        for bad in ("199", "100", "1000", "x"):
            self.assertEqual(self.ask(f"/status/{bad}")[0], 400)

    def test_drip(self):
        begin = time.monotonic()
        c = self.client().get("/drip?bytes=6&interval=30")
        self.assertEqual(c.read_head()[1]["content-length"], "6")
        pieces = []
        while sum(map(len, pieces)) < 6:
            pieces.append(c.rest or c.s.recv(100))
            c.rest = b""
        self.assertEqual(b"".join(pieces), pattern(6))
        self.assertGreaterEqual(time.monotonic() - begin, 0.149)
        self.assertGreater(len(pieces), 2)
        self.assertEqual(self.ask("/drip?bytes=10&interval=1&piece=4")[2], pattern(10))

    def test_echo_with_length(self):
        for length in (0, 1, 1000, 3000000):
            body = pattern(length, 7)
            c = self.client()
            c.get("/echo", f"Content-Length: {length}\r\n", method="PUT").send(body)
            status, fields, got = c.answer()
            self.assertEqual((status, fields["x-method"]), (200, "put"))
            self.assertEqual(fields["content-length"], str(length))
            self.assertTrue(got == body)

    def test_echo_chunked_one_byte_at_a_time(self):
        c = self.client().get("/echo", "Transfer-Encoding: chunked\r\n", method="POST")
        for byte in b"5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nTrailer: x\r\n\r\n":
            c.send(bytes([byte]))
        status, fields, body = c.answer()
        self.assertEqual((status, body), (200, b"hello world"))
        self.assertEqual(fields["transfer-encoding"], "chunked")
        self.assertEqual(c.get("/bytes/2").answer()[2], pattern(2))

    def test_echo_is_bounded(self):
        c = self.client().get("/echo", f"Content-Length: {64 * 1024 * 1024 + 1}\r\n", method="POST")
        status, fields, _ = c.answer()
        self.assertEqual((status, fields["connection"]), (413, "close"))
        self.assertEqual(c.read_to_end(), b"")

    def test_sink(self):
        c = self.client().get("/sink", "Content-Length: 200000\r\n", method="POST")
        c.send(pattern(200000))
        self.assertEqual(json.loads(c.answer()[2]), {"bytes": 200000, "matches": True})
        c.get("/sink", "Content-Length: 3\r\n", method="POST").send(b"abc")
        self.assertEqual(json.loads(c.answer()[2]), {"bytes": 3, "matches": False})

    def test_headers(self):
        body = self.ask("/headers", fields="X-One: 1\r\nX-Two:  2 \r\n")[2]
        self.assertEqual(body, b"Host: t\r\nX-One: 1\r\nX-Two:  2 \r\n")

    def test_close(self):
        c = self.client().get("/close")
        status, fields, body = c.answer()
        self.assertEqual((fields["connection"], body), ("close", b"closing\n"))
        self.assertEqual(c.read_to_end(), b"")

    def test_index_lists_every_route(self):
        status, fields, body = self.ask("/")
        for route in ("/bytes/N", "/chunked/N", "/drip", "/sink", "/bad/reset?", "/bad/early"):
            self.assertIn(route.encode(), body)
        self.assertEqual(self.ask("/nowhere")[0], 404)
        self.assertEqual(self.ask("/bad/nothing")[0], 404)

    def test_stats(self):
        before = self.stats()
        c = self.client()
        for _ in range(5):
            c.get("/bytes/1000").answer()
        after = self.stats()
        self.assertEqual(after["threads"], 2)
        self.assertEqual(after["requests"] - before["requests"], 6)
        self.assertEqual(after["accepted"] - before["accepted"], 2)
        self.assertGreater(after["bytes_out"] - before["bytes_out"], 5000)
        self.assertGreaterEqual(after["open"], 1)


class Protocol(OriginTest):
    def test_head(self):
        c = self.client().get("/bytes/77", method="HEAD").get("/bytes/3")
        status, fields, _ = c.answer("HEAD")
        self.assertEqual((status, fields["content-length"]), (200, "77"))
        self.assertEqual(c.answer()[2], pattern(3))

    def test_pipelining(self):
        c = self.client()
        c.send(b"".join(b"GET /bytes/%d HTTP/1.1\r\nHost: t\r\n\r\n" % i for i in range(500)))
        for i in range(500):
            self.assertEqual(c.answer()[2], pattern(i))

    def test_pipelining_past_a_delay_and_a_body(self):
        c = self.client()
        c.send(b"POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nabc"
               b"GET /delay/30 HTTP/1.1\r\nHost: t\r\n\r\nGET /bytes/9 HTTP/1.1\r\nHost: t\r\n\r\n")
        self.assertEqual(c.answer()[2], b"abc")
        self.assertEqual(c.answer()[2], b"delayed 30 ms\n")
        self.assertEqual(c.answer()[2], pattern(9))

    def test_pipelining_without_reading_is_held_back(self):
        c = self.client(receive_buffer=4096)
        wanted = 400
        sender = threading.Thread(
            target=lambda: [c.get("/bytes/100000", "X-Pad: " + "p" * 1000 + "\r\n")
                            for _ in range(wanted)])
        sender.start()
        time.sleep(0.2)
        for _ in range(wanted):
            self.assertTrue(c.answer()[2] == pattern(100000))
        sender.join()

    def test_one_byte_at_a_time(self):
        c = self.client()
        for byte in b"\r\nGET /bytes/5 HTTP/1.1\r\nHost: t\r\n\r\n":
            c.send(bytes([byte]))
            time.sleep(0.0005)
        self.assertEqual(c.answer()[2], pattern(5))

    def test_slow_reader_of_a_large_body(self):
        c = self.client(receive_buffer=32768).get("/bytes/8000000")
        time.sleep(0.1)
        self.assertTrue(c.answer()[2] == pattern(8000000))

    def test_half_closed_client_is_answered(self):
        c = self.client().get("/bytes/100000").get("/bytes/5")
        c.s.shutdown(socket.SHUT_WR)
        self.assertTrue(c.answer()[2] == pattern(100000))
        self.assertEqual(c.answer()[2], pattern(5))
        self.assertEqual(c.read_to_end(), b"")

    def test_http_1_0(self):
        c = self.client().get("/bytes/4", version="1.0")
        status, fields, body = c.answer()
        self.assertEqual((fields["connection"], body), ("close", pattern(4)))
        self.assertEqual(c.read_to_end(), b"")
        c = self.client()
        for _ in range(2):
            c.get("/bytes/4", "Connection: keep-alive\r\n", version="1.0")
            self.assertEqual(c.answer()[1]["connection"], "keep-alive")

    def test_connection_close(self):
        c = self.client().get("/bytes/4", "Connection: x, Close\r\n").get("/bytes/5")
        self.assertEqual(c.answer()[1]["connection"], "close")
        self.assertEqual(c.read_to_end(), b"")

    def test_expect_continue(self):
        c = self.client()
        for _ in range(2):
            c.get("/echo", "Content-Length: 3\r\nExpect: 100-continue\r\n", method="PUT")
            self.assertEqual(c.read(25), b"HTTP/1.1 100 Continue\r\n\r\n")
            c.send(b"abc")
            self.assertEqual(c.answer()[2], b"abc")

    def test_expect_continue_refused(self):
        c = self.client()
        c.get("/status/403", "Content-Length: 9\r\nExpect: 100-continue\r\n", method="PUT")
        status, fields, _ = c.answer()
        self.assertEqual((status, fields["connection"]), (403, "close"))
        self.assertEqual(self.ask("/bytes/1", fields="Expect: 200-ok\r\n")[0], 417)

    def test_absolute_form(self):
        for scheme in ("http", "https"):
            self.assertEqual(self.ask(scheme + "://t:80/bytes/3?x")[2], pattern(3))

    def test_bad_requests(self):
        host = b"Host: t\r\n"
        cases = {
            b"GET / HTTP/1.1\r\n\r\n": 400,
            b"GET / HTTP/1.1\r\n" + host + host + b"\r\n": 400,
            b"GET / HTTP/2.0\r\n" + host + b"\r\n": 505,
            b"GET / HTTP/1.2\r\n" + host + b"\r\n": 505,
            b"GET  / HTTP/1.1\r\n" + host + b"\r\n": 400,
            b"GET /\x01 HTTP/1.1\r\n" + host + b"\r\n": 400,
            b"G(T / HTTP/1.1\r\n" + host + b"\r\n": 400,
            b"GET / HTTP/1.1\r\n" + host + b" folded: x\r\n\r\n": 400,
            b"GET / HTTP/1.1\r\n" + host + b"A : x\r\n\r\n": 400,
            b"GET / HTTP/1.1\r\n" + host + b"A: \x00\r\n\r\n": 400,
            b"GET / HTTP/1.1\r\n" + host + b"A: x\ny\r\n\r\n": 400,
            b"GET / HTTP/1.1\nHost: t\n\n": 400,
            b"PUT / HTTP/1.1\r\n" + host + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\n": 400,
            b"PUT / HTTP/1.1\r\n" + host + b"Content-Length: -1\r\n\r\n": 400,
            b"PUT / HTTP/1.1\r\n" + host + b"Content-Length: 99999999999999999999\r\n\r\n": 400,
            b"PUT / HTTP/1.1\r\n" + host +
            b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n": 400,
            b"PUT / HTTP/1.1\r\n" + host + b"Transfer-Encoding: gzip\r\n\r\n": 501,
            b"PUT / HTTP/1.1\r\n" + host + b"Transfer-Encoding: chunked\r\n\r\nx\r\n": 400,
            b"PUT / HTTP/1.1\r\n" + host + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n": 400,
            b"PUT / HTTP/1.1\r\n" + host + b"Transfer-Encoding: chunked\r\n\r\n" + b"1" * 17 +
            b"\r\n": 400,
            b"GET / HTTP/1.1\r\n" + host + b"A: " + b"x" * 70000: 431,
            b"GET / HTTP/1.1\r\n" + host + b"A: " + b"x" * 70000 + b"\r\n\r\n": 431,
        }
        for request, want in cases.items():
            with self.subTest(request=request[:80]):
                c = self.client().send(request)
                status, fields, _ = c.answer()
                self.assertEqual((status, fields["connection"]), (want, "close"))
                self.assertEqual(c.read_to_end(), b"")

    def test_largest_head(self):
        self.assertEqual(self.ask("/bytes/1", fields="A: " + "x" * 65000 + "\r\n")[0], 200)

    def test_many_conns(self):
        clients = [self.client() for _ in range(300)]
        for _ in range(3):
            for c in clients:
                c.get("/bytes/10")
            for c in clients:
                self.assertEqual(c.answer()[2], pattern(10))
        self.assertGreaterEqual(self.stats()["open"], 300)

    def settled(self):
        """How many are open when those of the test before have closed: the one that asks."""
        deadline = time.monotonic() + WAIT_S
        while (count := self.stats()["open"]) > 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        return count

    def test_conns_are_given_back(self):
        base = self.settled()
        clients = [self.connect().get("/bad/stall-head") for _ in range(10)]
        clients += [self.connect().get("/delay/100000") for _ in range(10)]
        clients += [self.connect().get("/bytes/100000000") for _ in range(10)]
        deadline = time.monotonic() + WAIT_S
        while self.stats()["open"] < base + 30:
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)
        for c in clients:
            c.s.close()
        # The conn of the figures before may still be closing.
        while self.stats()["open"] > base + 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        self.assertLessEqual(self.stats()["open"], base + 1)


class BadRoutes(OriginTest):
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n"

    def bad(self, target, **options):
        return self.client(**options).get("/bad/" + target)

    def assert_reset(self, c, want):
        got = b""
        with self.assertRaises(ConnectionResetError):
            while True:
                piece = c.s.recv(65536)
                self.assertNotEqual(piece, b"", "FIN instead of RST")
                got += piece
        self.assertTrue(got == want, got[:100])

    def test_reset(self):
        for after in (0, 1, 100, 300000):
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (after + 1000)
            self.assert_reset(self.bad(f"reset?after={after}"), head + pattern(after))

    def test_reset_before(self):
        self.assert_reset(self.bad("reset-before"), b"")

    def test_reset_before_the_upload_ends(self):
        c = self.client().get("/bad/reset-before", "Content-Length: 1000\r\n", method="PUT")
        self.assert_reset(c, b"")

    def test_stall(self):
        c = self.bad("stall?after=50")
        want = b"HTTP/1.1 200 OK\r\nContent-Length: 1050\r\n\r\n" + pattern(50)
        self.assertEqual(c.read(len(want)), want)
        self.assertTrue(c.is_silent())

    def test_stall_head(self):
        c = self.bad("stall-head")
        self.assertTrue(c.is_silent())
        c.get("/bytes/1")
        self.assertTrue(c.is_silent())

    def test_garbage(self):
        self.assertEqual(self.bad("garbage").read_to_end(),
                         b"\x16\x03\x01\x00\xff\x00garbage, not HTTP\r\n\r\n")

    def test_huge_headers(self):
        for size in (10, 100000, 3000000):
            c = self.bad(f"huge-headers?bytes={size}")
            want = (b"HTTP/1.1 200 OK\r\nX-Huge: " + b"a" * size +
                    b"\r\nContent-Length: 3\r\n\r\nok\n")
            self.assertTrue(c.read(len(want)) == want)
            self.assertEqual(c.get("/bytes/2").answer()[2], pattern(2))

    def test_close_mid_head(self):
        self.assertEqual(self.bad("close-mid-head").read_to_end(),
                         b"HTTP/1.1 200 OK\r\nContent-Le")

    def test_extra(self):
        c = self.bad("extra?bytes=7")
        self.assertEqual(c.read(len(self.ok) + 7), self.ok + b"a" * 7)
        self.assertTrue(c.is_silent(0.05))

    def test_unasked(self):
        c = self.bad("unasked?after=300")
        self.assertEqual(c.read(len(self.ok)), self.ok)
        self.assertTrue(c.is_silent(0.02))
        want = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nunasked\n"
        self.assertEqual(c.read(len(want)), want)
        self.assertEqual(c.get("/bytes/2").answer()[2], pattern(2))

    def test_close_idle(self):
        c = self.bad("close-idle?after=300")
        self.assertEqual(c.read(len(self.ok)), self.ok)
        self.assertTrue(c.is_silent(0.01))
        self.assertEqual(c.read_to_end(), b"")

    def test_close_idle_meets_a_request(self):
        c = self.bad("close-idle?after=300")
        self.assertEqual(c.read(len(self.ok)), self.ok)
        c.get("/bytes/1")
        self.assert_reset(c, b"")

    def test_reset_idle(self):
        c = self.bad("reset-idle?after=30")
        self.assertEqual(c.read(len(self.ok)), self.ok)
        self.assert_reset(c, b"")

    def test_smuggle(self):
        want = (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"5\r\nhello\r\n0\r\n\r\n")
        self.assertEqual(self.bad("smuggle").read(len(want)), want)

    def test_cl_conflict(self):
        want = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"
        self.assertEqual(self.bad("cl-conflict").read(len(want)), want)

    def test_eof_body(self):
        for size in (0, 10, 500000):
            self.assertTrue(self.bad(f"eof-body?bytes={size}").read_to_end() ==
                            b"HTTP/1.1 200 OK\r\n\r\n" + pattern(size))

    def test_short(self):
        self.assertEqual(self.bad("short?bytes=20").read_to_end(),
                         b"HTTP/1.1 200 OK\r\nContent-Length: 1020\r\n\r\n" + pattern(20))

    def test_1xx(self):
        hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"
        for count in (0, 1, 5000):
            c = self.bad(f"1xx?count={count}")
            want = hint * count + self.ok
            self.assertEqual(c.read(len(want)), want)

    def test_split_writes(self):
        want = b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n" + pattern(20)
        self.assertEqual(self.bad("split-writes").read(len(want)), want)
        c = self.bad("split-writes?bytes=3&after=2")
        pieces = []
        while sum(map(len, pieces)) < len(want) - 18:
            pieces.append(c.s.recv(1000))
        self.assertEqual(b"".join(pieces),
                         b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n" + pattern(3))
        self.assertGreater(len(pieces), 5)  # a busy machine may give us several at once

    def test_early(self):
        c = self.client().get("/bad/early", "Content-Length: 100000\r\n", method="PUT")
        status, fields, body = c.answer()
        self.assertEqual((status, fields["connection"]), (413, "close"))
        self.assertEqual(c.read_to_end(), b"")

    def test_misdeed_waits_for_the_body(self):
        c = self.client().get("/bad/short", "Content-Length: 5\r\n", method="PUT")
        self.assertTrue(c.is_silent(0.05))
        self.assertIn(b"Content-Length: 1100", c.send(b"12345").read_to_end())


class Options(unittest.TestCase):
    def start(self, *options):
        origin = Origin(*options)
        self.addCleanup(lambda: origin.process.poll() is None and origin.stop())
        return origin

    def test_max_requests(self):
        origin = self.start("--max-requests", "3")
        with Client(origin.port) as c:
            closes = [c.get("/bytes/1").answer()[1].get("connection") for _ in range(3)]
            self.assertEqual(closes, [None, None, "close"])
            self.assertEqual(c.read_to_end(), b"")

    def test_idle_timeout(self):
        origin = self.start("--idle-timeout", "100")
        with Client(origin.port) as never_asks, Client(origin.port) as stops_asking:
            with Client(origin.port) as slow_head:
                slow_head.send(b"GET / HT")
                for _ in range(4):
                    self.assertEqual(stops_asking.get("/delay/40").answer()[0], 200)
                begin = time.monotonic()
                self.assertEqual(stops_asking.read_to_end(), b"")
                self.assertGreaterEqual(time.monotonic() - begin, 0.09)
                self.assertEqual(never_asks.read_to_end(), b"")
                self.assertEqual(slow_head.read_to_end(), b"")

    def test_idle_timeout_spares_the_busy(self):
        origin = self.start("--idle-timeout", "50")
        with Client(origin.port) as c:
            self.assertEqual(c.get("/delay/200").answer()[0], 200)
            self.assertEqual(c.get("/drip?bytes=5&interval=40").answer()[2], pattern(5))

    def test_ipv6(self):
        origin = self.start("--bind", "::1")
        self.assertRegex(origin.line, r"^listening on http://\[::1\]:\d+$")
        with Client(origin.port, host="::1") as c:
            self.assertEqual(c.get("/bytes/9").answer()[2], pattern(9))

    def test_unix_socket(self):
        with tempfile.TemporaryDirectory() as folder:
            path = folder + "/origin.sock"
            for threads in ("1", "3"):
                origin = self.start("--bind", "unix:" + path, "--threads", threads)
                self.assertEqual(origin.line, "listening on unix:" + path)
                s = socket.socket(socket.AF_UNIX)
                s.settimeout(WAIT_S)
                s.connect(path)
                s.sendall(b"GET /bytes/300000 HTTP/1.0\r\n\r\n")
                got = b""
                while piece := s.recv(1 << 16):
                    got += piece
                s.close()
                self.assertTrue(got.endswith(b"\r\n\r\n" + pattern(300000)))
                self.assertEqual(origin.stop(), 0)
                self.assertFalse(os.path.exists(path))

    def test_raw_echo(self):
        origin = self.start("--echo-port", "0", "--threads", "2")
        line = origin.read_line()
        self.assertRegex(line, r"^echo on 127\.0\.0\.1:\d+$")
        with Client(int(line.rsplit(":", 1)[1])) as c:
            self.assertEqual(c.send(b"hello\0").read(6), b"hello\0")
            sent = pattern(8000000)
            sender = threading.Thread(target=lambda: (c.send(sent), c.s.shutdown(socket.SHUT_WR)))
            sender.start()
            got = c.read_to_end()
            sender.join()
            self.assertTrue(got == sent)

    def test_signals_end_it_cleanly(self):
        for by in (signal.SIGTERM, signal.SIGINT):
            origin = self.start("--threads", "4")
            with Client(origin.port) as idle, Client(origin.port) as stalled:
                idle.get("/bytes/1").answer()
                stalled.get("/bad/stall").read_head()
                self.assertEqual(origin.stop(by), 0)

    def test_taken_port(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            run = subprocess.run([ORIGIN, "--port", str(taken.getsockname()[1])],
                                 capture_output=True, timeout=WAIT_S)
        self.assertEqual((run.returncode, run.stdout), (1, b""))
        self.assertIn(b"Address already in use", run.stderr)

    def test_bad_options(self):
        for options in (["--port", "65536"], ["--threads", "0"], ["--port", "x"], ["extra"],
                        ["--nonsense"], ["--idle-timeout", "-1"]):
            run = subprocess.run([ORIGIN, *options], capture_output=True, timeout=WAIT_S)
            self.assertEqual(run.returncode, 2, options)
            self.assertIn(b"--help", run.stderr)
        run = subprocess.run([ORIGIN, "--help"], capture_output=True, timeout=WAIT_S)
        self.assertEqual((run.returncode, run.stderr), (0, b""))
        self.assertIn(b"--idle-timeout", run.stdout)

    def test_runs_out_of_descriptors_and_recovers(self):
        import resource
        limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
        process = subprocess.Popen([ORIGIN], stdout=subprocess.PIPE, preexec_fn=limit)
        try:
            port = int(process.stdout.readline().decode().rsplit(":", 1)[1])
            clients = [Client(port) for _ in range(60)]
            clients[0].get("/bytes/3")
            self.assertEqual(clients[0].answer()[2], pattern(3))
            before = cpu_seconds(process.pid)
            time.sleep(0.3)
            self.assertLess(cpu_seconds(process.pid) - before, 0.2)
            for c in clients[:50]:
                c.s.close()
            self.assertEqual(clients[59].get("/bytes/3").answer()[2], pattern(3))
            for c in clients[50:]:
                c.s.close()
        finally:
            process.terminate()
            self.assertEqual(process.wait(WAIT_S), 0)
            process.stdout.close()


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    unittest.main(verbosity=1)
