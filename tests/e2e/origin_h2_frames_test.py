#!/usr/bin/env python3
"""mooring-origin over HTTP/2, frame by frame: how conns begin and end, what a hostile peer can do.

Usage: origin_h2_frames_test.py PATH-OF-MOORING-ORIGIN [unittest arguments]
"""

import os
import signal
import socket
import ssl
import struct
import time
import unittest

import origin_test
from h2_raw import GREETING, Raw, ask
from origin_test import WAIT_S, Client, Origin, pattern
from tls_case import TlsSocket, path_of, s_client, trust

from h2_peer import (CALM, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS,
                     INITIAL_WINDOW, INTERNAL_ERROR, NO_ERROR, PING, PREFACE, PROTOCOL_ERROR,
                     REFUSED_STREAM, SETTINGS, STREAMS, TABLE_SIZE, block, data, frame, goaway,
                     integer, reset, settings, window)

# A test measures the server's memory: a sanitizer must not keep what is freed.
os.environ["ASAN_OPTIONS"] = os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=1"
ECHO_MAX = 64 * 1024 * 1024
STREAMS_MAX = 128


class H2Test(origin_test.OriginTest):
    options = ("--threads", "1")

    def raw(self, **options):
        c = Raw(self.origin.port, **options)
        self.addCleanup(c.s.close)
        return c

    def memory(self):
        with open(f"/proc/{self.origin.process.pid}/status") as f:
            return int(f.read().split("VmRSS:")[1].split()[0])

    def assert_serves(self):
        self.assertEqual(self.raw().get(1, "/bytes/3").body, pattern(3))


class Beginnings(H2Test):
    def test_preface_one_byte_at_a_time(self):
        c = self.raw(greets=False)
        for byte in GREETING + ask(1, "/bytes/5"):
            c.send(bytes([byte]))
            time.sleep(0.0005)
        self.assertEqual(c.finish(1)[0].body, pattern(5))

    def test_preface_in_two_pieces(self):
        for at in range(1, len(PREFACE), 3):
            c = self.raw(greets=False).send(GREETING[:at])
            time.sleep(0.01)
            self.assertEqual(c.send(GREETING[at:]).get(1, "/bytes/5").body, pattern(5), at)

    def test_half_a_preface_and_the_end(self):
        for at in range(0, len(PREFACE), 5):
            c = self.raw(greets=False).send(PREFACE[:at])
            c.s.shutdown(socket.SHUT_WR)
            self.assertEqual(c.s.recv(100), b"", at)
        self.raw(greets=False).send(PREFACE[:9]).s.close()
        self.assert_serves()

    def test_what_only_begins_like_a_preface(self):
        for head, status in ((b"PRI * HTTP/2.0\r\n\r\nXX", 505), (b"PRI * HTTP/1.1\r\n\r\n", 400),
                             (b"PRI /bytes/1 HTTP/1.0\r\n\r\n", 200)):
            c = self.client().send(head)
            self.assertEqual(c.answer()[0], status, head)
        c = self.client().send(b"P")
        time.sleep(0.02)
        c.send(b"UT /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\nok")
        self.assertEqual(c.answer()[2], b"ok")

    def test_not_in_the_middle_of_a_conn(self):
        c = self.client().get("/bytes/1")
        c.answer()
        self.assertEqual(c.send(PREFACE).answer()[0], 505)

    def test_not_if_forbidden(self):
        origin = Origin("--no-h2")
        self.addCleanup(origin.stop)
        with Client(origin.port) as c:
            self.assertEqual(c.send(GREETING).answer()[0], 505)

    def test_settings(self):
        c = self.raw()
        c.until(lambda: c.settings, "settings")
        self.assertEqual(c.settings[STREAMS], STREAMS_MAX)

    def test_preface_without_settings(self):
        c = self.raw(greets=False).send(PREFACE, ask(1, "/bytes/1")).read_to_end()
        self.assertEqual(c.goaways[0][1], PROTOCOL_ERROR)


class Streams(H2Test):
    def test_answers_that_do_not_wait_for_the_body(self):
        c = self.raw()
        for stream, path, fields, status in (
                (1, "/nowhere", (), 404), (3, "/bad/short", (), 501),
                (5, "/status/404", (("expect", "100-continue"),), 404),
                (7, "/echo", (("expect", "tea"),), 417),
                (9, "/echo", (("content-length", str(ECHO_MAX + 1)),), 413)):
            c.send(ask(stream, path, *fields, method="POST", ends=False))
            c.until(lambda: c.answer(stream).reset is not None, path)
            a = c.answer(stream)
            self.assertEqual((a.statuses, a.is_complete, a.reset), ([status], True, NO_ERROR), path)
        self.assertEqual(c.get(11, "/bytes/3").body, pattern(3))
        self.assertEqual(c.goaways, [])

    def test_continue_comes_first(self):
        c = self.raw()
        c.send(ask(1, "/echo", ("expect", "100-continue"), method="POST", ends=False))
        c.until(lambda: c.answer(1).statuses, "100")
        self.assertEqual(c.answer(1).statuses, [100])
        c.send(data(1, b"hello", True)).finish(1)
        self.assertEqual((c.answer(1).statuses, c.answer(1).body), ([100, 200], b"hello"))

    def test_delays_run_side_by_side(self):
        c = self.raw()
        streams = range(1, 201, 2)
        begin = time.monotonic()
        # The last asked for is the first to be due.
        c.send(*[ask(i, f"/delay/{400 - i}") for i in streams])
        answers = c.finish(*streams)
        for i, a in zip(streams, answers):
            self.assertEqual((a.status, a.body), (200, f"delayed {400 - i} ms\n".encode()))
            self.assertGreaterEqual(a.ended_at - begin, (399 - i) / 1000)
        self.assertLess(time.monotonic() - begin, 2)
        self.assertLess(answers[-1].ended_at, answers[0].ended_at)

    def test_drips_run_side_by_side(self):
        c = self.raw()
        streams = range(1, 101, 2)
        begin = time.monotonic()
        c.send(*[ask(i, f"/drip?bytes=10&interval={i % 7 * 5}&piece=2") for i in streams])
        for i, a in zip(streams, c.finish(*streams)):
            self.assertEqual(a.body, pattern(10))
            self.assertEqual(len([p for p in a.pieces if p]), 5)
            self.assertGreaterEqual(a.ended_at - begin, i % 7 * 5 * 4 / 1000 - 0.001)
        self.assertLess(time.monotonic() - begin, 2)

    def test_small_ones_pass_large_ones(self):
        c = self.raw()
        c.send(ask(1, "/bytes/1000000000", ("priority", "u=6")))
        c.until(lambda: c.answer(1).pieces, "the large body")
        self.assertEqual(c.get(3, "/bytes/3", ("priority", "u=1")).body, pattern(3))
        self.assertFalse(c.answer(1).is_complete)

    def test_more_streams_than_allowed(self):
        c = self.raw()
        streams = range(1, 2 * (STREAMS_MAX + 12), 2)
        c.send(*[ask(i, "/delay/100") for i in streams])
        answers = c.finish(*streams)
        self.assertEqual([a.status for a in answers], [200] * STREAMS_MAX + [None] * 12)
        self.assertEqual({a.reset for a in answers[STREAMS_MAX:]}, {REFUSED_STREAM})

    def test_cancelled_ones_leave_the_others_alone(self):
        c = self.raw()
        paths = ("/bytes/1000000000", "/delay/5000", "/drip?bytes=100&interval=1000", "/echo")
        for i in range(0, 160, 4):
            for j, path in enumerate(paths):
                c.send(ask(2 * (i + j) + 1, path, ends=path != "/echo"))
            for j in range(4):
                c.cancel(2 * (i + j) + 1)
        self.assertEqual(c.get(1001, "/bytes/3").body, pattern(3))
        self.assertEqual(c.get(1003, "/delay/30").status, 200)

    def test_small_windows(self):
        """Two bytes for each stream, and 65,535 for all: bodies come as windows open."""
        c = self.raw(greets=False)
        c.send(PREFACE, settings((TABLE_SIZE, 0), (INITIAL_WINDOW, 2)))
        c.send(ask(1, "/bytes/10"), ask(3, "/bytes/9"))
        c.until(lambda: len(c.answer(1).body) == len(c.answer(3).body) == 2, "two bytes of each")
        self.assertEqual(c.get(5, "/bytes/0").status, 200)
        for _ in range(4):
            for i in (1, 3):
                c.send(window(i, 2))
        one, three = c.finish(1, 3)
        self.assertEqual((one.body, three.body), (pattern(10), pattern(9)))

    def test_content_length_that_is_not_true(self):
        c = self.raw()
        c.send(ask(1, "/echo", ("content-length", "5"), method="POST", ends=False), data(1, b"four", True))
        c.until(lambda: c.answer(1).reset is not None, "the refusal")
        self.assertEqual(c.answer(1).reset, PROTOCOL_ERROR)
        self.assertEqual(c.get(3, "/bytes/3").body, pattern(3))

    def test_echo_of_unknown_length_and_trailers(self):
        c = self.raw()
        c.send(ask(1, "/echo", method="POST", ends=False), data(1, b"hello"), data(1, b""),
               data(1, b" world"))
        c.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, block(("x", "y"))))
        self.assertEqual(c.finish(1)[0].body, b"hello world")

    def test_targets_that_are_none(self):
        c = self.raw()
        self.assertEqual(c.get(1, "/a b").reset, PROTOCOL_ERROR)
        self.assertEqual(c.get(3, "/" + "x" * 9000).status, 404)
        c.send(ask(5, "*", method="OPTIONS")).finish(5)
        self.assertEqual(c.answer(5).status, 400)
        c.send(frame(HEADERS, END_HEADERS | END_STREAM, 7,
                     block((":method", "CONNECT"), (":authority", "t:1")))).finish(7)
        self.assertEqual(c.answer(7).status, 400)


class Ends(H2Test):
    def start(self, *options):
        origin = Origin(*options)
        self.addCleanup(lambda: origin.process.poll() is None and origin.stop())
        return origin

    def at(self, origin, **options):
        c = Raw(origin.port, **options)
        self.addCleanup(c.s.close)
        return c

    def test_close_lets_the_others_finish(self):
        c = self.raw().send(ask(1, "/delay/150"), ask(3, "/close"), ask(5, "/bytes/1"))
        c.until(lambda: c.goaways, "GOAWAY")
        c.read_to_end()
        self.assertEqual(c.answer(3).body, b"closing\n")
        self.assertEqual(c.answer(1).body, b"delayed 150 ms\n")
        self.assertEqual([code for _, code in c.goaways], [NO_ERROR])
        # What GOAWAY covers is answered, what it does not is not.
        self.assertEqual(c.answer(5).is_complete, c.goaways[0][0] >= 5)

    def test_max_requests(self):
        c = self.at(self.start("--max-requests", "3"))
        c.send(*[ask(i, "/bytes/7") for i in range(1, 11, 2)]).read_to_end()
        self.assertEqual(c.goaways, [(5, NO_ERROR)])
        self.assertEqual([c.answer(i).body for i in range(1, 11, 2)], [pattern(7)] * 3 + [b""] * 2)

    def test_idle_timeout(self):
        origin = self.start("--idle-timeout", "100")
        never_asks, half = self.at(origin), self.at(origin, greets=False).send(PREFACE[:7])
        c = self.at(origin)
        for stream in range(1, 9, 2):
            self.assertEqual(c.get(stream, "/delay/60").status, 200)
        self.assertEqual(c.get(9, "/drip?bytes=4&interval=80").body, pattern(4))
        begin = time.monotonic()
        c.read_to_end()
        self.assertGreaterEqual(time.monotonic() - begin, 0.08)
        self.assertEqual(c.goaways, [(9, NO_ERROR)])
        self.assertEqual(never_asks.read_to_end().goaways, [(0, NO_ERROR)])
        self.assertEqual(half.s.recv(10), b"")

    def test_signal(self):
        origin = self.start("--threads", "2")
        idle, busy, full = [self.at(origin) for _ in range(3)]
        self.assertEqual(idle.get(1, "/bytes/1").body, pattern(1))
        busy.send(ask(1, "/delay/60000")).until(lambda: busy.settings, "settings")
        full.send(ask(1, "/bytes/1000000000"))
        time.sleep(0.1)
        self.assertEqual(origin.stop(signal.SIGTERM), 0)
        self.assertEqual(idle.read_to_end().goaways, [(1, NO_ERROR)])
        self.assertEqual(busy.read_to_end().goaways, [(1, NO_ERROR)])

    def test_clients_word(self):
        c = self.raw()
        c.send(ask(1, "/delay/50"), goaway(0)).read_to_end()
        self.assertEqual(c.answer(1).body, b"delayed 50 ms\n")

    def test_client_leaves(self):
        for how in ("FIN", "RST"):
            for path in ("/bytes/1000000000", "/delay/60000", "/drip?bytes=100&interval=100"):
                c = self.raw(receive_buffer=8192).send(*[ask(i, path) for i in range(1, 41, 2)])
                c.until(lambda: c.settings, "settings")
                if how == "RST":
                    c.s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                c.s.close()
        deadline = time.monotonic() + WAIT_S
        while self.stats()["open"] > 1:
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)


class Hostile(H2Test):
    def hear_the_end(self, c):
        try:
            c.read_to_end()
        except ConnectionResetError:
            pass
        return {code for _, code in c.goaways}

    def test_bodies_nobody_reads(self):
        before = self.memory()
        peers = [self.raw(receive_buffer=4096) for _ in range(10)]
        for c in peers:
            c.send(*[ask(i, "/bytes/1000000000") for i in range(1, 201, 2)])
        time.sleep(0.3)
        self.assertLess(self.memory() - before, 20000)  # KB
        for c in peers:
            c.s.close()
        self.assert_serves()

    def test_echoes_share_a_bound(self):
        c, body = self.raw(), pattern(60 * 1024 * 1024)
        for stream in (1, 3):
            c.upload(stream, "/echo", body, ends=False)
        c.upload(5, "/echo", pattern(9 * 1024 * 1024), ends=False)
        c.until(lambda: c.answer(5).reset is not None, "the refusal")
        self.assertEqual((c.answer(5).status, c.answer(5).reset), (413, NO_ERROR))
        c.cancel(3)
        self.assertTrue(c.send(data(1, b"", True)).finish(1)[0].body == body)
        # What is answered or cancelled no longer counts.
        self.assertTrue(c.upload(7, "/echo", body).finish(7)[0].body == body)
        self.assertLess(self.memory(), 400_000)  # KB; a buffer is up to twice what it holds

    def test_echo_that_is_too_long(self):
        c = self.raw()
        c.upload(1, "/echo", bytes(ECHO_MAX + 1), ends=False)
        c.until(lambda: c.answer(1).reset is not None, "the refusal")
        self.assertEqual((c.answer(1).status, c.answer(1).reset), (413, NO_ERROR))
        self.assertEqual(c.get(3, "/bytes/3").body, pattern(3))

    def test_head_that_is_too_long(self):
        c = self.raw()
        fields = block((":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "t"),
                       *[(f"x-{i}", "v" * 7000) for i in range(10)])
        pieces = [fields[at:at + 16000] for at in range(0, len(fields), 16000)]
        c.send(frame(HEADERS, END_STREAM, 1, pieces[0]),
               *[frame(CONTINUATION, 0, 1, p) for p in pieces[1:-1]],
               frame(CONTINUATION, END_HEADERS, 1, pieces[-1]))
        self.assertEqual(c.finish(1)[0].status, 431)
        self.assertEqual(c.get(3, "/bytes/3").body, pattern(3))

    def test_small_head_that_unfolds(self):
        """One field of 3,900 bytes in the table, named 10,000 times by a byte each."""
        c = self.raw()
        first = block((":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "t"))
        kept = b"\x40" + integer(1, 7) + b"x" + integer(3900, 7) + b"v" * 3900
        before, begin = self.memory(), time.monotonic()
        c.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, first + kept + b"\xbe" * 10000))
        self.assertEqual(c.finish(1)[0].status, 431)
        self.assertLess(time.monotonic() - begin, 2)
        self.assertLess(self.memory() - before, 5000)

    def test_endless_head(self):
        c = self.raw()
        first = block((":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "t"))
        c.send(frame(HEADERS, END_STREAM, 1, first))
        try:
            for _ in range(10000):
                c.send(frame(CONTINUATION, 0, 1, block(("x", "y"))))
        except (ConnectionResetError, BrokenPipeError):
            pass
        self.assertEqual(self.hear_the_end(c), {CALM})
        self.assert_serves()

    def test_pings_whose_answers_are_not_read(self):
        """While the answer to 1 fills the socket, pings gather in front of the server."""
        for kind, flags, payload in ((PING, 0, bytes(8)), (SETTINGS, 0, b"")):
            c = self.raw(receive_buffer=4096).send(ask(1, "/bytes/1000000000"))
            time.sleep(0.1)
            c.s.settimeout(0.3)
            before = self.memory()
            try:
                for _ in range(200):
                    c.send(frame(kind, flags, 0, payload) * 1000)
            except TimeoutError:
                pass
            time.sleep(0.1)
            self.assertLess(self.memory() - before, 5000)
            c.s.settimeout(WAIT_S)
            self.assertEqual(self.hear_the_end(Deaf.of(c)), {CALM})
            self.assert_serves()

    def test_resets_at_speed(self):
        c = self.raw()
        try:
            for i in range(1, 20001, 200):
                c.send(*[ask(j, "/delay/1000") + reset(j, 8) for j in range(i, i + 200, 2)])
        except (ConnectionResetError, BrokenPipeError):
            pass
        self.assertEqual(self.hear_the_end(c), {INTERNAL_ERROR})
        self.assert_serves()

    def test_frames_that_are_none(self):
        for broken in (b"\xff" * 100, frame(DATA, 0, 1, b"x"), frame(HEADERS, END_HEADERS, 2, block()),
                       frame(PING, 0, 0, b"1"), frame(DATA, 0, 0, b"x"), b"\xff\xff\xff" + bytes(6),
                       frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff"),
                       frame(SETTINGS, 0, 0, b"12345")):
            c = self.raw().send(broken, bytes(50000))
            codes = self.hear_the_end(c)
            self.assertNotIn(NO_ERROR, codes, broken[:20])
            self.assertTrue(codes, broken[:20])
        self.assert_serves()


class Deaf(Raw):
    """Hears, but answers nothing: the other side no longer reads."""

    @classmethod
    def of(cls, c):
        c.__class__ = cls
        return c

    def send(self, *pieces):
        return self


class OverTls(unittest.TestCase):
    def start(self, *options):
        origin = Origin("--tls", "--tls-ca-out", path_of("ca.pem"), *options)
        self.addCleanup(lambda: origin.process.poll() is None and origin.stop())
        return origin

    def over(self, origin, alpn="h2", **options):
        context = trust(path_of("ca.pem"))
        if alpn:
            context.set_alpn_protocols([alpn])
        raw = socket.create_connection(("127.0.0.1", origin.port), WAIT_S)
        self.addCleanup(raw.close)
        return TlsSocket(raw, context, **options)

    def test_orderly_ends(self):
        origin = self.start("--max-requests", "2")
        s = self.over(origin)
        c = Raw(0, over=s).send(ask(1, "/bytes/300000"), ask(3, "/tls")).read_to_end()
        self.assertTrue(c.answer(1).body == pattern(300000))
        self.assertIn(b"\nalpn: h2\n", c.answer(3).body)
        self.assertEqual((c.goaways, s.ended_by), ([(3, NO_ERROR)], "close_notify"))

    def test_signal(self):
        origin = self.start()
        s = self.over(origin)
        c = Raw(0, over=s)
        c.get(1, "/bytes/1")
        self.assertEqual(origin.stop(), 0)
        self.assertEqual((c.read_to_end().goaways, s.ended_by), ([(1, NO_ERROR)], "close_notify"))

    def test_chosen_and_not_spoken(self):
        s = self.over(self.start())
        s.sendall(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        c = Raw(0, greets=False, over=s).read_to_end()
        self.assertEqual((c.goaways, s.ended_by), ([(0, PROTOCOL_ERROR)], "close_notify"))

    def test_spoken_and_not_chosen(self):
        origin = self.start()
        for alpn in (None, "http/1.1"):
            s = self.over(origin, alpn)
            s.sendall(GREETING)
            self.assertIn(b" 505 ", s.recv(1000))

    def test_one_byte_at_a_time(self):
        s = self.over(self.start())
        for byte in GREETING + ask(1, "/bytes/5"):
            s.sendall(bytes([byte]))
        self.assertEqual(Raw(0, greets=False, over=s).finish(1)[0].body, pattern(5))

    def test_early_data(self):
        origin = self.start("--tls-early-data")
        session = path_of("session")
        alpn = ("-alpn", "h2")
        # Behind the client's GOAWAY the server ends the conn, and s_client with it.
        end = goaway(0)
        s_client(origin, *alpn, "-sess_out", session, request=GREETING + ask(1, "/bytes/1") + end)
        with open(path_of("early"), "wb") as f:
            f.write(GREETING + ask(1, "/late") + ask(3, "/bytes/20"))
        text = s_client(origin, *alpn, "-sess_in", session, "-early_data", path_of("early"),
                        request=ask(5, "/late") + end)
        self.assertIn(b"Early data was accepted", text)
        self.assertIn(b"425 Too Early\n", text)
        self.assertIn(pattern(20), text)
        self.assertIn(b"late enough\n", text)


if __name__ == "__main__":
    unittest.main(verbosity=1)
