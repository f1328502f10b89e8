#!/usr/bin/python3
"""The program against a server by Debian's python3-h2, another engine with another HPACK, scripted
frame by frame.

Usage: h2_hyper_test.py PATH-OF-MOORING [unittest arguments]
Skipped (77) without that package. h2_peer_test.py has the peers that break rules.
"""

import json
import os
import random
import sys
import unittest

try:
    import h2.connection  # noqa: F401
except ImportError:
    if sys.executable != "/usr/bin/python3" and os.path.exists("/usr/bin/python3"):
        os.execv("/usr/bin/python3", ["/usr/bin/python3", "-B", *sys.argv])  # Debian's own
    print("python3-h2 is not installed", file=sys.stderr)
    sys.exit(77)

from hyper_peer import BODY, PAD_MAX, Peer, good
from mooring_case import pattern, run

MOORING = sys.argv.pop(1)
HIGHEST = 2**31 - 1
SEED = int(os.environ.get("MOORING_TEST_SEED", "0"), 0) or random.SystemRandom().getrandbits(64)


class HyperTest(unittest.TestCase):
    def get(self, script, *options, urls=1, stdin=b"", times=None, code=0):
        """Returns what came out, and the peer for its counts."""
        with Peer(script, times) as peer:
            got, out, err = run(MOORING, "get", "--http2", "--timeout", "20s", *options,
                                *[peer.url] * urls, stdin=stdin)
            self.judge(peer)
            self.assertEqual(got, code, err)
            if code == 0:
                self.assertEqual(err, "")
        return out, peer

    def good(self, script, *options, urls=1, body=BODY, **more):
        out, peer = self.get(script, *options, urls=urls, **more)
        self.assertTrue(out == body * urls, out[:100])
        return peer

    def judge(self, peer):
        self.assertEqual((peer.violations, peer.faults, peer.goaways), ([], [], []))

    def load(self, script, count, *options, times=None):
        with Peer(script, times) as peer:
            code, out, err = run(MOORING, "load", peer.url, "--h2", "--json", "-n", str(count),
                                 "--shards", "1", "--timeout", "20s", *options)
            seen = json.loads(out)
            self.judge(peer)
            self.assertEqual((code, seen["requests"], seen["errors"]), (0, count, 0),
                             (seen["errors_by_kind"], err))
        return peer


class Fields(HyperTest):
    """HPACK both ways, by another implementation."""

    def test_good(self):
        peer = self.good(good, urls=5)
        self.assertEqual((peer.conns, peer.requests), (1, 5))

    def test_request_fields_arrive(self):
        """The same and others, request after request: through the dynamic table and out of it."""
        given = [(f"X-Name-{i}", f"{i}-" + "v" * (i * 37 % 400)) for i in range(40)]
        options = [word for name, value in given for word in ("-H", f"{name}: {value}")]

        def script(conn):
            conn.greet()
            while True:
                request = conn.request()
                fine = all(request.field(n.lower()) == [v] for n, v in given)
                pseudo = [n for n, _ in request.fields if n.startswith(":")]
                fine = fine and sorted(pseudo) == [":authority", ":method", ":path", ":scheme"]
                conn.answer(request, b"fine\n" if fine else repr(request.fields).encode())
        self.good(script, *options, urls=4, body=b"fine\n")

    def test_priority_is_a_field_of_the_request(self):
        def script(conn):
            conn.greet()
            request = conn.request()
            conn.answer(request, ",".join(request.field("priority")).encode())
        self.good(script, "-H", "Priority: u=1, i", body=b"u=1, i")

    def test_table_of_the_server_changes_its_size(self):
        """Our encoder may keep no more than the server's decoder does, from the next block on."""
        def script(conn):
            conn.greet(HEADER_TABLE_SIZE=4096)
            for size in (0, 65536, 100, 4096, 0):
                conn.answer(conn.request(), BODY)
                conn.configure(HEADER_TABLE_SIZE=size)
            conn.serve()
        self.good(script, "-H", "X-Long: " + "z" * 300, "-H", "X-Short: y", urls=8)

    def test_response_fields_arrive(self):
        fields = [(f"x-name-{i % 30}", f"{i}-" + "w" * (i * 53 % 900)) for i in range(60)]

        def script(conn):
            conn.greet()
            while True:
                conn.answer(conn.request(), b"", *fields)
        out, _ = self.get(script, "-i", urls=3)
        heads = out.decode().split("\r\n\r\n")
        self.assertEqual(len(heads), 4)
        for head in heads[:3]:
            lines = [tuple(line.split(": ", 1)) for line in head.split("\r\n")[1:]]
            self.assertEqual([line for line in lines if line[0].lower().startswith("x-name")],
                             fields)

    def test_a_head_of_several_frames(self):
        fields = [(f"x-{i}", "v" * 1000) for i in range(40)]

        def script(conn):
            conn.greet()
            while True:
                conn.answer(conn.request(), BODY, *fields)
        self.good(script, urls=2)

    def test_a_head_beyond_the_bound(self):
        """Costs its stream, not the conn."""
        def script(conn):
            conn.greet()
            request = conn.request()
            conn.head(request, *[(f"x-{i}", "v" * 1000) for i in range(100)])
            conn.until(lambda: request.number in conn.resets)
            conn.serve()
        _, peer = self.get(script, urls=1, code=56, times=1)
        self.assertEqual(peer.conns, 1)


class Answers(HyperTest):
    """What a response may consist of."""

    def test_interim_answers(self):
        def script(conn):
            conn.greet()
            while True:
                request = conn.request()
                for status in (102, 103, 103, 199):
                    conn.interim(request, status, ("link", f"</{status}>; rel=preload"))
                conn.answer(request)
        self.good(script, urls=3)

    def test_interim_while_the_request_is_sent(self):
        sent = pattern(200_000)

        def script(conn):
            conn.refills = False
            conn.greet()
            request = conn.request(is_complete=False)
            conn.until(lambda: len(request.body) == 65535)
            conn.interim(request, 103, ("link", "</a>"))
            conn.refills = True
            conn.refill(request.number)
            conn.flush()
            conn.until(lambda: request.is_complete)
            conn.answer(request)
        self.good(script, "-d", "@-", stdin=sent, body=sent)

    def test_a_body_waits_for_100(self):
        sent = pattern(50_000)

        def script(conn):
            conn.greet()
            request = conn.request(is_complete=False)
            before = request.field("expect") == ["100-continue"] and not request.body
            conn.ping(b"a moment")
            before = before and not request.body
            conn.interim(request, 100)
            conn.until(lambda: request.is_complete)
            conn.answer(request, b"fine" if before and request.body == sent else b"bad")
        self.good(script, "--expect-continue", "-d", "@-", stdin=sent, body=b"fine")

    def test_a_refusal_instead_of_100(self):
        def script(conn):
            conn.greet()
            request = conn.request(is_complete=False)
            conn.head(request, status=417)
            conn.piece(request, BODY if not request.body else b"it sent a body", last=True)
            conn.until(lambda: request.number in conn.resets or request.is_complete)
            conn.serve()
        self.good(script, "--expect-continue", "-d", "@-", stdin=pattern(50_000))

    def test_trailers(self):
        for body in (b"", b"x", pattern(100_000)):
            with self.subTest(len(body)):
                def script(conn, body=body):
                    conn.greet()
                    while True:
                        request = conn.request()
                        conn.head(request, ("trailer", "x-sum, x-more"))
                        conn.piece(request, body)
                        conn.trailers(request, ("x-sum", "1"), ("x-more", "y" * 3000))
                self.good(script, urls=3, body=body)

    def test_a_status_in_trailers_is_malformed(self):
        def script(conn):
            conn.greet()
            request = conn.request()
            conn.head(request)
            conn.piece(request, BODY)
            conn.trailers(request, (":status", "200"))
            conn.serve()
        self.get(script, "-X", "POST", code=56)

    def test_head_alone(self):
        for status in (204, 304):
            with self.subTest(status):
                def script(conn, status=status):
                    conn.greet()
                    while True:
                        conn.head(conn.request(), ("x-test", "1"), status=status, last=True)
                self.good(script, urls=3, body=b"")

    def test_alternatives_are_passed_over(self):
        """ALTSVC, of the conn and of a stream."""
        def script(conn):
            conn.greet()
            conn.h2.advertise_alternative_service(b'h2=":1"', origin=b"http://127.0.0.1")
            while True:
                request = conn.request()
                conn.h2.advertise_alternative_service(b'h2=":1"', stream_id=request.number)
                conn.answer(request)
        peer = self.good(script, urls=3)
        self.assertEqual(peer.conns, 1)


class Windows(HyperTest):
    """Flow control, which the library counts on its side."""

    def test_padding_counts(self):
        body = pattern(40_000)

        def script(conn):
            conn.greet()
            while True:
                request = conn.request()
                conn.head(request)
                for at in range(0, len(body), 100):
                    conn.piece(request, body[at:at + 100], at + 100 >= len(body),
                               pad=at // 100 % (PAD_MAX + 1))
        self.good(script, urls=3, body=body)

    def test_an_upload_by_drops(self):
        """The stream's window opens by 1, 3, 7 ... bytes, the conn's seldom."""
        sent = pattern(200_000)

        def script(conn):
            conn.refills = False
            conn.greet()
            request = conn.request(is_complete=False)
            allowed, of_conn, step = 65535, 65535, 1
            while not request.is_complete:
                conn.until(lambda: len(request.body) >= min(allowed, of_conn, len(sent)))
                if len(request.body) == of_conn:
                    conn.open(50_000)
                    of_conn += 50_000
                elif len(request.body) < len(sent):
                    conn.open(step, request.number)
                    allowed, step = allowed + step, step * 2 + 1
                elif not request.is_complete:
                    conn.read()
            conn.answer(request)
        self.good(script, "-d", "@-", stdin=sent, body=sent)

    def test_the_widest_windows(self):
        """Up to 2^31 - 1 exactly is allowed, of a stream and of the conn."""
        sent = pattern(3_000_000)

        def script(conn):
            conn.refills = False
            conn.greet(INITIAL_WINDOW_SIZE=HIGHEST)
            conn.open(HIGHEST - 65535)
            request = conn.request()
            conn.answer(request)
        self.good(script, "-d", "@-", stdin=sent, body=sent)

    def test_settings_in_the_middle_of_an_upload(self):
        """The window of the stream shrinks to less than nothing; frames may grow; streams may not
        be opened any more."""
        sent = pattern(600_000)

        def script(conn):
            conn.refills = False
            conn.greet(INITIAL_WINDOW_SIZE=100_000)
            request = conn.request(is_complete=False)
            conn.until(lambda: len(request.body) == 65535)
            conn.open(1_000_000)
            conn.until(lambda: len(request.body) == 100_000)
            conn.configure(INITIAL_WINDOW_SIZE=0, MAX_CONCURRENT_STREAMS=0)
            conn.open(150_000, request.number)  # 50,000 beyond what was sent
            conn.until(lambda: len(request.body) == 150_000)
            conn.configure(MAX_FRAME_SIZE=1_000_000, INITIAL_WINDOW_SIZE=100_000)
            conn.until(lambda: len(request.body) == 250_000)
            conn.configure(INITIAL_WINDOW_SIZE=1_000_000, MAX_CONCURRENT_STREAMS=10)
            conn.until(lambda: request.is_complete)
            conn.answer(request)
            conn.serve()
        self.good(script, "-d", "@-", stdin=sent, body=sent)

    def test_settings_and_pings_in_the_middle_of_a_body(self):
        body = pattern(500_000)

        def script(conn):
            conn.greet()
            while True:
                request = conn.request()
                conn.head(request)
                for number, at in enumerate(range(0, len(body), 50_000)):
                    conn.piece(request, body[at:at + 50_000])
                    conn.configure(INITIAL_WINDOW_SIZE=1000 * number, HEADER_TABLE_SIZE=number)
                    conn.ping(b"%08d" % (request.number * 100 + number))
                conn.piece(request, b"", last=True)
        self.good(script, urls=2, body=body)


POINTS = ("first", "request", "interim", "head", "body", "before trailers", "after")


def leaves_at(point, allows):
    """Says GOAWAY at this point of its first request, whose stream it `allows` or not; and goes on
    with what it allowed."""
    def script(conn):
        def say(now):
            if now == point:
                conn.go_away(request.number if allows and request else 0)
                if not allows:
                    conn.until(lambda: False)  # until the client closes
        request = None
        conn.greet()
        say("first")
        request = conn.request()
        say("request")
        conn.interim(request, 103, ("link", "</a>"))
        say("interim")
        conn.head(request)
        say("head")
        conn.piece(request, BODY[:1])
        say("body")
        conn.piece(request, BODY[1:])
        say("before trailers")
        conn.trailers(request, ("x-sum", "1"))
        say("after")
        conn.serve()
    return script


class Closings(HyperTest):
    def test_goaway_at_each_point(self):
        """Of a stream that is allowed the answer comes; what is asked next goes elsewhere."""
        for point in POINTS[1:]:
            with self.subTest(point):
                peer = self.good(leaves_at(point, True), urls=3, times=1)
                self.assertEqual(peer.conns, 2)
                # The next request may have been on its way when it was said.
                self.assertIn(peer.requests + peer.passed_over, (3, 4))

    def test_goaway_above_the_request_at_each_point(self):
        """A stream that is not allowed goes again, also a POST; once its head was told it fails."""
        for point in POINTS[:3]:
            with self.subTest(point):
                peer = self.good(leaves_at(point, False), "-X", "POST", times=1)
                self.assertEqual(peer.conns, 2)
        for point in POINTS[3:6]:
            with self.subTest(point):
                out, _ = self.get(leaves_at(point, False), "-X", "POST", times=1, code=56)
                self.assertIn(out, (b"", BODY[:1], BODY))

    def test_goaway_as_graceful_shutdown(self):
        """RFC 9113 6.8: first with the highest id, then, after a round trip, with the last one."""
        def script(conn):
            conn.greet()
            for _ in range(10):
                conn.answer(conn.request())
            conn.go_away(HIGHEST)
            conn.ping(b"seen it?")
            conn.go_away(max(conn.h2.highest_inbound_stream_id, 1))
            conn.serve()
        peer = self.load(script, 300, "-c", "1", "-m", "4")
        self.assertEqual(peer.answered, 300)
        self.assertGreater(peer.conns, 5)


class Mix(HyperTest):
    def test_anything_allowed(self):
        """Whatever a server may do, drawn from a seed, under load."""
        print(f"MOORING_TEST_SEED={SEED:#x}", flush=True)

        def script(conn):
            draw = random.Random(SEED + conn.number)
            conn.greet(MAX_CONCURRENT_STREAMS=draw.randint(1, 30),
                       HEADER_TABLE_SIZE=draw.choice((0, 50, 4096, 65536)),
                       INITIAL_WINDOW_SIZE=draw.choice((500, 65535, 1_000_000)))
            for _ in range(draw.randint(5, 40)):
                request = conn.request()
                for _ in range(draw.choice((0, 0, 0, 1, 5))):
                    conn.interim(request, draw.choice((100, 102, 103)))
                conn.head(request, *[(f"x-{draw.randint(1, 50)}", "v" * draw.randint(0, 300))
                                     for _ in range(draw.randint(0, 10))])
                for _ in range(draw.randint(0, 5)):
                    piece = bytes(draw.choice((0, 1, 1000, 20_000)))
                    conn.piece(request, piece, pad=draw.choice((None, 0, draw.randint(0, PAD_MAX))))
                if draw.random() < 0.1:
                    conn.configure(MAX_CONCURRENT_STREAMS=draw.randint(1, 30))
                if draw.random() < 0.1:
                    conn.ping(draw.randbytes(8))
                if draw.random() < 0.3:
                    conn.trailers(request, ("x-sum", str(draw.random())))
                else:
                    conn.piece(request, b"", last=True)
            conn.go_away(conn.h2.highest_inbound_stream_id)
            conn.serve()
        peer = self.load(script, 1500, "-c", "2", "-m", "20", "--body", "x" * 3000)
        self.assertEqual(peer.answered, 1500)


if __name__ == "__main__":
    unittest.main()
