#!/usr/bin/env python3
"""What a caller sees of an HTTP/2 server that breaks rules, ends conns, floods or says nothing.

Usage: h2_peer_test.py PATH-OF-MOORING [unittest arguments]

The servers are the scenarios of tests/support/h2_peer.py, where each is described. Whatever a peer
does, a request ends by itself: TIMEOUT is there to be missed by a client that hangs.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import h2_peer  # noqa: E402
from h2_peer import (BODY, CANCEL, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, PROTOCOL_ERROR,  # noqa: E402
                     SCENARIOS, Peer)
from mooring_case import WAIT_S, environment, pattern, run  # noqa: E402

MOORING = sys.argv.pop(1)
TIMEOUT = "10s"
HUNG = 28  # the exit status that says that TIMEOUT came first
COMPRESSION_ERROR = 9
CONNS_PER_REQUEST = 4  # once and replays_max times again, and one to spare


class PeerTest(unittest.TestCase):
    def get(self, peer, *options, urls=1, timeout=TIMEOUT, stdin=b"", **settings):
        return run(MOORING, "get", "--http2", "--timeout", timeout, *options, *[peer.url] * urls,
                   stdin=stdin, **settings)

    def judged(self, peer):
        self.assertEqual(peer.violations, [])

    def good(self, name, *options, urls=1, number=None, body=BODY, stdin=b"", **settings):
        """All answered with this body. Returns the peer, for its counts."""
        with Peer(name, number) as peer:
            code, out, err = self.get(peer, *options, urls=urls, stdin=stdin, **settings)
            self.assertEqual((code, err), (0, ""))
            self.assertTrue(out == body * urls, out[:100])
            self.judged(peer)
        return peer

    def bad(self, name, *options, what="", codes=(), number=None, timeout=TIMEOUT, **settings):
        """One line that says why, no hang, no crash, and few conns. `codes`: what the client may
        tell the peer, in GOAWAY or RST_STREAM."""
        with Peer(name, number) as peer:
            code, _, err = self.get(peer, *options, timeout=timeout, **settings)
            self.assertGreater(code, 0, err)
            self.assertNotEqual(code, HUNG, err)
            self.assertRegex(err, rf"\Amooring get: [^\n]*{what}[^\n]*\n\Z")
            self.assertLessEqual(peer.conns, CONNS_PER_REQUEST)
            if codes:
                self.wait(lambda: peer.goaways or peer.resets, "the client's word")
                self.assertLessEqual(set(peer.goaways + peer.resets) - {0}, set(codes))
                self.assertTrue(set(peer.goaways + peer.resets) & set(codes))
        return peer

    def wait(self, true, what):
        end = time.monotonic() + WAIT_S
        while not true():
            self.assertLess(time.monotonic(), end, f"no {what}")
            time.sleep(0.01)

    def load(self, name, *options, number=None, count=100, **settings):
        """All answered, each exactly once."""
        with Peer(name, number) as peer:
            code, out, err = run(MOORING, "load", peer.url, "--h2", "--json", "-n", str(count),
                                 "--shards", "1", "--timeout", TIMEOUT, *options, **settings)
            report = json.loads(out)
            self.assertEqual((code, report["requests"], report["errors"]), (0, count, 0),
                             (report["errors_by_kind"], err))
            self.assertEqual(peer.answered, count)
            self.judged(peer)
        return peer


class Rules(PeerTest):
    """Peers that keep the rules, in uncommon ways."""

    def test_good(self):
        peer = self.good("good", urls=3)
        self.assertEqual((peer.conns, peer.requests), (1, 3))

    def test_version_is_said(self):
        with Peer() as peer:
            code, out, err = self.get(peer, "-i")
            self.assertEqual((code, err), (0, ""))
            self.assertRegex(out, rb"\AHTTP/2(\.0)? 200")

    def test_h2c_scheme(self):
        with Peer() as peer:
            code, out, err = run(MOORING, "get", f"h2c://127.0.0.1:{peer.port}/")
            self.assertEqual((code, out, err), (0, BODY, ""))

    def test_one_byte_at_a_time(self):
        self.good("one_byte", urls=2)
        sent = pattern(3000)
        self.good("one_byte", "-d", "@-", stdin=sent, body=sent)

    def test_interim_answers(self):
        self.good("interim", urls=2)

    def test_trailers(self):
        self.good("trailers", urls=2)

    def test_padding_and_unknown_frames(self):
        self.good("padded", urls=2)

    def test_padding_counts_in_the_windows(self):
        self.good("padded_body", urls=2, body=b"y" * 200_000)

    def test_settings_and_data_after_the_answer_cost_only_the_conn(self):
        for name in ("settings_unasked_ack", "data_closed_stream"):
            with self.subTest(name), Peer(name) as peer:
                code, out, err = self.get(peer)
                self.assertIn(code, (0, 56), err)
                self.assertEqual(out, BODY if code == 0 else out)

    def test_answer_before_the_request_is_whole(self):
        """RFC 9113 8.1: the rest of the body is not wanted, the answer stands."""
        sent = pattern(1_000_000)
        with Peer("rst_after_answer") as peer:
            code, out, err = self.get(peer, "-d", "@-", stdin=sent)
            self.assertEqual((code, out), (0, BODY), err)


class Uploads(PeerTest):
    """The windows and frame sizes that the peer sets; it judges what it gets."""

    def echo(self, name, length, **more):
        sent = pattern(length)
        return self.good(name, "-d", "@-", stdin=sent, body=sent, **more)

    def test_echo(self):
        for length in (0, 1, 16384, 65535, 65536, 1_000_000):
            with self.subTest(length):
                self.echo("good", length) if length else self.good("good", "-d", "")

    def test_window_of_one_byte(self):
        self.echo("window_one", 40)

    def test_window_of_zero_is_raised(self):
        self.echo("window_zero_raised", 1000)

    def test_window_is_raised_by_settings_alone(self):
        sent = pattern(20_000)
        with tempfile.NamedTemporaryFile() as f:
            f.write(sent)
            f.flush()
            peer = self.good("window_settings", "-d", f"@{f.name}", urls=2, body=sent)
            self.assertEqual(peer.conns, 1)

    def test_window_becomes_negative(self):
        self.echo("window_negative", 200_000)

    def test_frame_size_changes(self):
        sent = pattern(200_000)
        with self.subTest(), Peer("frame_size_changes") as peer:
            path = f"/proc/self/fd/{os.memfd_create('body')}"
            with open(path, "wb") as f:
                f.write(sent)
            fd = int(path.rsplit("/", 1)[1])
            done = subprocess.run(
                [MOORING, "get", "--http2", "--timeout", TIMEOUT, "-d", f"@{path}", peer.url,
                 peer.url], capture_output=True, timeout=WAIT_S, env=environment(), pass_fds=[fd])
            os.close(fd)
            self.assertEqual((done.returncode, done.stderr), (0, b""))
            self.assertTrue(done.stdout == sent * 2)
            self.judged(peer)


class Streams(PeerTest):
    """Limits on streams, and conns that end under load: nothing fails, nothing runs twice."""

    def test_many_streams(self):
        peer = self.load("good", "-c", "1", "-m", "100", count=3000)
        self.assertEqual(peer.conns, 1)
        self.assertGreater(peer.most_open, 1)
        self.assertLessEqual(peer.most_open, 100)

    def test_no_streams_for_a_while(self):
        self.load("settings_zero_streams", "-c", "1", "-m", "20", number=5)

    def test_no_streams_and_early_ones_refused(self):
        """Every new conn refuses what was sent before its SETTINGS: the first one's come too late
        for whoever asks once, the others may be tired of it. Bounded, whatever the end."""
        with Peer("settings_zero_refused", 5) as peer:
            code, _, err = self.get(peer)
            self.assertIn(code, (0, 56), err)
            self.assertLessEqual(peer.conns, CONNS_PER_REQUEST)
            self.judged(peer)

    def test_limit_moves(self):
        self.load("settings_midflight", "-c", "1", "-m", "30", count=300)

    def test_limit_below_what_is_open(self):
        self.load("settings_lowered", "-c", "1", "-m", "10", number=10)

    def test_goaway_after_some(self):
        peer = self.load("goaway_after_n", "-c", "1", "-m", "10", number=20)
        self.assertGreaterEqual(peer.conns, 5)

    def test_nothing_begins_behind_our_own_goaway(self):
        """A conn is worn while requests of the same moment still wait to be written."""
        peer = self.load("good", "-c", "4", "-m", "8", count=500, MOORING_USES_MAX="7")
        self.assertGreaterEqual(peer.conns, 500 // 7)
        self.assertIn(0, peer.goaways)

    def test_goaway_after_fewer_than_are_open(self):
        """Some are above the last id of one conn after another."""
        peer = self.load("goaway_after_n", "-c", "1", "-m", "10", number=5,
                         MOORING_REPLAYS_MAX="10")
        self.assertGreaterEqual(peer.conns, 20)

    def test_goaway_after_one(self):
        self.good("goaway_after_n", urls=3, number=1)

    def test_goaway_twice(self):
        peer = self.load("goaway_twice", "-c", "1", "-m", "10", number=5)
        self.assertGreater(peer.conns, 1)

    def test_goaway_in_the_middle_of_a_body(self):
        peer = self.good("goaway_mid_body", urls=2)
        self.assertEqual((peer.conns, peer.requests), (2, 2))

    def test_not_processed_is_sent_again(self):
        """Proof that nothing was done is worth a replay, even of a POST."""
        for name, number in (("goaway_zero:once", None), ("goaway_at_once:once", None),
                             ("refuse_first_n", 1), ("refuse_first_n", 2)):
            for options in ((), ("-d", "cargo")):
                with self.subTest(name, options=options):
                    peer = self.good(name, *options, number=number,
                                     body=b"cargo" if options else BODY)
                    self.assertEqual(peer.answered, 1)

    def test_some_refused_under_load(self):
        peer = self.load("refuse_first_n", "-c", "1", "-m", "10", number=10)
        self.assertGreaterEqual(peer.requests, 110)

    def test_refusals_without_end_are_an_error(self):
        for name in ("goaway_zero", "goaway_at_once", "refuse_first_n"):
            with self.subTest(name):
                peer = self.bad(name)
                self.assertLessEqual(peer.requests, 12)

    def test_calm_is_no_endless_retry(self):
        for name in ("calm_goaway", "calm_rst"):
            with self.subTest(name):
                self.assertEqual(self.bad(name, what="the server asks for calm").requests, 1)

    def test_what_may_have_been_done_is_not_done_twice(self):
        for name in ("rst_internal", "rst_mid_body", "goaway_error", "close_request", "close_head",
                     "close_data", "close_cut_data"):
            with self.subTest(name):
                self.assertEqual(self.bad(name, "-d", "cargo").requests, 1)

    def test_another_stream_outlives_the_reset_of_one(self):
        with Peer("rst_internal", 1) as peer:
            code, out, err = self.get(peer, "-d", "cargo", urls=2)
            self.assertEqual((code, out), (56, b"cargo"), err)
            self.assertEqual((peer.conns, peer.requests), (1, 2))


class Closings(PeerTest):
    def test_at_every_stage(self):
        for name in (n for n in SCENARIOS if n.startswith("close_") and n != "close_no_length"):
            with self.subTest(name):
                self.bad(name)

    def test_a_body_without_length_needs_the_end_of_its_stream(self):
        self.bad("close_no_length")

    def test_a_get_survives_one_conn_that_closes_early(self):
        for name in ("goaway_at_once", "goaway_zero"):
            with self.subTest(name):
                self.good(name + ":once")

    def test_silence_ends_at_the_timeout(self):
        for name in ("stall", "silent", "stall_mid_body"):
            with self.subTest(name), Peer(name) as peer:
                code, _, err = self.get(peer, timeout="300ms")
                self.assertEqual(code, HUNG, err)

    def test_pings_tell_a_slow_server_from_a_dead_one(self):
        """It acknowledges: the request may take its time."""
        with Peer("stall") as peer:
            code, _, err = self.get(peer, timeout="1s", MOORING_H2_PING_AFTER_MS="50",
                                    MOORING_H2_PING_TIMEOUT_MS="300")
            self.assertEqual(code, HUNG, err)
            self.assertGreater(peer.pings, 0)
            self.assertEqual(peer.conns, 1)

    def test_a_server_that_never_says_settings_is_given_up(self):
        with Peer("silent") as peer:
            code, _, err = self.get(peer, MOORING_H2_PING_AFTER_MS="50",
                                    MOORING_H2_PING_TIMEOUT_MS="300")
            self.assertNotIn(code, (0, HUNG), err)
            self.assertGreater(code, 0, err)
            self.assertLessEqual(peer.conns, CONNS_PER_REQUEST)

    def test_a_ping_without_answer_moves_the_request(self):
        with Peer("never_ack_ping") as peer:
            code, out, err = self.get(peer, urls=2, MOORING_H2_PING_AFTER_MS="50",
                                      MOORING_H2_PING_TIMEOUT_MS="300")
            self.assertEqual((code, out), (0, BODY * 2), err)
            self.assertEqual(peer.conns, 2)


    def test_a_ping_keeps_no_request_waiting(self):
        peer = self.good("deaf_to_pings", urls=2, MOORING_H2_PING_AFTER_MS="1",
                         MOORING_H2_PING_TIMEOUT_MS="60000")
        self.assertEqual(peer.conns, 1)
        self.assertGreaterEqual(peer.pings, 1)


class Idle(PeerTest):
    """What comes when nobody waits for anything costs no request: the next takes another conn."""

    def test_what_meets_an_idle_conn(self):
        for name in (n for n in SCENARIOS if n.startswith("idle_")):
            with self.subTest(name):
                peer = self.good(name, urls=3)
                self.assertEqual((peer.conns, peer.answered), (3, 3))


# What breaks a rule, with what the client may say of it. None: it just closes, or says nothing.
BROKEN = {
    "window_overflow_conn": (FLOW_CONTROL_ERROR,), "window_overflow_stream": (FLOW_CONTROL_ERROR,),
    "window_zero_increment": (PROTOCOL_ERROR,), "window_overflow_settings": (FLOW_CONTROL_ERROR,),
    "frame_size_invalid": (PROTOCOL_ERROR,), "push_enabled": (PROTOCOL_ERROR,),
    "settings_odd_size": (FRAME_SIZE_ERROR,), "ping_odd_size": (FRAME_SIZE_ERROR,),
    "frame_too_large": (FRAME_SIZE_ERROR,), "data_unknown_stream": (PROTOCOL_ERROR,),
    "data_even_stream": (PROTOCOL_ERROR,), "data_stream_zero": (PROTOCOL_ERROR,),
    "data_before_head": (PROTOCOL_ERROR,), "rst_unknown_stream": (PROTOCOL_ERROR,),
    "goaway_rising": None, "push_promise": (PROTOCOL_ERROR,),
    "continuation_alone": (PROTOCOL_ERROR,), "continuation_torn": (PROTOCOL_ERROR,),
    "padding_too_long": (PROTOCOL_ERROR,), "http1_answer": None, "settings_missing": None,
    "hpack_garbage": (COMPRESSION_ERROR,), "hpack_bad_index": (COMPRESSION_ERROR,),
    "hpack_table_size": (COMPRESSION_ERROR,), "header_huge": None,
}
MALFORMED = ("length_more", "length_fewer", "length_no_body", "length_twice", "length_garbage",
             "headers_twice", "trailers_pseudo", "trailers_open", "interim_ends",
             "switching_protocols", "header_upper_case", "header_connection",
             "header_transfer_encoding", "header_newline", "header_empty_name",
             "header_unknown_pseudo", "status_missing", "status_late", "status_garbage",
             "status_twice")
# Seen when the stream is closed on both sides: nothing may be said on it any more (RFC 9113 5.1).
CLOSED_BY_THEN = {"length_more", "length_no_body", "interim_ends"}

# Of these the caller hears only that the conn is over, and a GET is tried again before that.
UNNAMED = {"goaway_rising"}
BROKE = "broke the protocol"


class Broken(PeerTest):
    def test_rules_of_the_conn(self):
        for name, codes in BROKEN.items():
            with self.subTest(name):
                self.bad(name, codes=codes or (), what="" if name in UNNAMED else BROKE)

    def test_a_broken_rule_ends_a_post_at_once(self):
        for name in BROKEN:
            if name not in ("goaway_rising", "settings_missing"):
                with self.subTest(name):
                    self.assertEqual(self.bad(name, "-d", "cargo").requests, 1)

    def test_malformed_answers(self):
        """Errors of a stream; the request is not made again."""
        for name in MALFORMED:
            with self.subTest(name):
                codes = () if name in CLOSED_BY_THEN else (PROTOCOL_ERROR,)
                self.assertEqual(self.bad(name, what=BROKE, codes=codes).requests, 1)

    def test_malformed_answers_reach_nobody_as_whole(self):
        for name in ("length_more", "length_fewer", "headers_twice", "trailers_pseudo"):
            with self.subTest(name), Peer(name) as peer:
                code, _, _ = self.get(peer)
                self.assertNotIn(code, (0, HUNG))

    def test_data_beyond_the_window(self):
        """A reader that stops, a peer that does not: memory is bounded, the conn may be closed."""
        with Peer("beyond_window") as peer, subprocess.Popen(
                [MOORING, "get", "--http2", peer.url], stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, env=environment()) as program:
            def ended():
                return program.poll() is not None or FLOW_CONTROL_ERROR in peer.goaways
            end = time.monotonic() + 2
            while not ended() and time.monotonic() < end:
                time.sleep(0.02)
            sent = peer.flooded * 16384
            program.kill()
            # The windows, both sockets' buffers and the pipe, with much room.
            self.assertLess(sent, 64 << 20)


class Bounds(PeerTest):
    def test_heads_of_responses(self):
        self.good("large_head", MOORING_HEADER_BYTES_MAX="1MiB")
        self.bad("large_head", what="header_bytes_max|peer broke|header")

    def test_heads_of_requests(self):
        field = "x-large: " + "y" * 66000
        with Peer("good") as peer:
            code, _, err = self.get(peer, "-H", field)
            self.assertGreater(code, 0)
            self.assertRegex(err, r"\Amooring get: [^\n]*64 KiB[^\n]*\n\Z")
            self.assertEqual(peer.requests, 0)
        self.good("good", "-H", "x-large: " + "y" * 60000)

    def test_bodies_that_no_window_lets_through(self):
        with Peer("window_shut") as peer:
            code, _, err = self.get(peer, "-d", "x" * 100000, timeout="50s",
                                    MOORING_H2_STALL_TIMEOUT_MS="100")
            self.assertEqual(code, HUNG, err)
            self.assertRegex(err, r"\Amooring get: [^\n]*the server's windows[^\n]*\n\Z")
            self.wait(lambda: CANCEL in peer.resets, "RST_STREAM")
            self.assertEqual((peer.conns, peer.requests), (1, 1))


# Must end the conn long before TIMEOUT, with an error.
FLOODS = {
    "flood_continuation": BROKE, "flood_continuation_empty": BROKE, "flood_ping": BROKE,
    "flood_ping_ack": "floods with PING", "flood_settings": "floods with SETTINGS",
    "flood_settings_empty": "floods with SETTINGS", "flood_settings_ack": BROKE,
    "flood_rst": "stream", "flood_data_empty": "floods with empty DATA",
    "flood_data_padding": BROKE, "flood_interim": "interim", "flood_window": BROKE,
    "flood_priority": BROKE, "header_bomb": "header_bytes_max",
    "flood_goaway": "frames of no use", "flood_unknown": "frames of no use",
    "flood_altsvc": "frames of no use",
}


class Floods(PeerTest):
    def test_floods_end_the_conn(self):
        for name, what in FLOODS.items():
            with self.subTest(name):
                self.bad(name, what=what)


class Judge(unittest.TestCase):
    """The peer sees a client that breaks rules: without that the tests above say little."""

    def violations(self, *frames, name="good"):
        with Peer(name) as peer, socket.create_connection(("127.0.0.1", peer.port)) as s:
            s.settimeout(WAIT_S)
            s.sendall(h2_peer.PREFACE + h2_peer.settings() + b"".join(frames))
            s.shutdown(socket.SHUT_WR)
            try:
                while s.recv(65536):
                    pass
            except OSError:
                pass
            return peer.violations

    def open(self, number, last=True):
        return h2_peer.frame(h2_peer.HEADERS, 4 | last, number, h2_peer.block((":method", "GET")))

    def test_nothing_wrong(self):
        self.assertEqual(self.violations(self.open(1), self.open(3)), [])

    def test_streams_out_of_order(self):
        self.assertEqual(len(self.violations(self.open(3), self.open(1))), 1)
        self.assertEqual(len(self.violations(self.open(2))), 1)

    def test_too_many_streams(self):
        acked = h2_peer.frame(h2_peer.SETTINGS, h2_peer.ACK)
        seen = self.violations(acked, self.open(1, False), name="settings_zero_streams")
        self.assertEqual(len(seen), 1, seen)

    def test_frame_too_large(self):
        seen = self.violations(self.open(1, False), h2_peer.data(1, bytes(16385)))
        self.assertEqual(len(seen), 1, seen)

    def test_beyond_the_window(self):
        seen = self.violations(h2_peer.frame(h2_peer.SETTINGS, h2_peer.ACK), self.open(1, False),
                               h2_peer.data(1, b"ab"), name="window_one")
        self.assertEqual(len(seen), 1, seen)

    def test_unasked_acknowledgement(self):
        acked = h2_peer.frame(h2_peer.SETTINGS, h2_peer.ACK)
        self.assertEqual(len(self.violations(acked, acked)), 1)


if __name__ == "__main__":
    if b"--http2" not in run(MOORING, "get", "--help")[1]:
        print("the program has no HTTP/2", file=sys.stderr)
        sys.exit(77)
    unittest.main()
