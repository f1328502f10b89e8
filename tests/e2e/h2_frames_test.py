#!/usr/bin/env python3
"""Every type of HTTP/2 frame, at every stage of a conn, on the conn and on a stream.

Usage: h2_frames_test.py PATH-OF-MOORING [unittest arguments]

Whatever the frame: each request ends by itself, in its body or in one line that says why, and few conns are
made. What RFC 9113 allows there costs no request.
"""

import struct
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import h2_peer  # noqa: E402
from h2_peer import (BODY, CONTINUATION, DATA, END_HEADERS, GOAWAY, HEADERS, PING,  # noqa: E402
                     PRIORITY, PUSH, RST, SETTINGS, WINDOW, Peer, block, data, frame, head)
from mooring_case import run  # noqa: E402

MOORING = sys.argv.pop(1)
TIMEOUT = "10s"
HUNG = 28  # the exit status that says that TIMEOUT came first
ALTSVC, ORIGIN, UNKNOWN = 10, 12, 0xf0
CANCEL = 8

PAYLOADS = {
    DATA: b"x", HEADERS: block((":status", "200")), PRIORITY: struct.pack(">IB", 0, 15),
    RST: struct.pack(">I", CANCEL), SETTINGS: b"", PUSH: struct.pack(">I", 2) + block((":path", "/")),
    PING: b"12345678", GOAWAY: struct.pack(">II", 1, 0), WINDOW: struct.pack(">I", 1),
    CONTINUATION: block(("x", "y")), ALTSVC: b"\0\1x" + b'h2=":1"', ORIGIN: b"\0\1x", UNKNOWN: b"?",
}
FLAGGED = (HEADERS, PUSH, CONTINUATION)
ON_CONN, ON_STREAM = 0, 1

# What a server may send there once its SETTINGS are out, and a client has to take.
ALLOWED = {(kind, ON_CONN) for kind in (SETTINGS, PING, WINDOW, ALTSVC, ORIGIN, UNKNOWN)}
ALLOWED |= {(kind, ON_STREAM) for kind in (WINDOW, PRIORITY, ALTSVC, ORIGIN, UNKNOWN)}
# An idle stream is none: nothing but PRIORITY and what is ignored is for it.
ALLOWED_IDLE = ALLOWED - {(WINDOW, ON_STREAM)}

STAGES = ("settings", "request", "head", "body", "middle", "end")


def odd(kind, where, number):
    return frame(kind, END_HEADERS if kind in FLAGGED else 0, number if where == ON_STREAM else 0,
                 PAYLOADS[kind])


def odd_frame(conn):
    """The frame before SETTINGS, before a request, its head, its body, in that, and behind it."""
    stage, kind, where = conn.peer.number

    def send(number):
        if (kind, where) == (SETTINGS, ON_CONN):
            conn.pending.append({})
        conn.send(odd(kind, where, number))

    if stage == "settings":
        send(1)
    conn.greet()
    if stage == "request":
        send(1)
    while True:
        stream = conn.request()
        n = stream.number
        parts = {"head": head(n), "body": data(n, BODY[:1]), "middle": data(n, BODY[1:], True),
                 "end": b""}
        for name, part in parts.items():
            if name == stage:
                send(n)
            conn.send(part)
        conn.streams.pop(n, None)


h2_peer.scenario(odd_frame)


class Frames(unittest.TestCase):
    def ask(self, stage, kind, where):
        """Two requests, one after the other. Returns whether both were answered."""
        with Peer("odd_frame", (stage, kind, where)) as peer:
            code, out, err = run(MOORING, "get", "--http2", "--timeout", TIMEOUT, peer.url, peer.url)
            self.assertNotEqual(code, HUNG, err)
            self.assertGreaterEqual(code, 0, err)
            self.assertRegex(err, r"\A(mooring get: [^\n]+\n){0,2}\Z")
            self.assertEqual(code == 0, err == "", err)
            if code == 0:
                body = BODY.replace(b"k", b"xk") if stage == "middle" else b"x" + BODY
                own = body if (kind, where) == (DATA, ON_STREAM) else BODY
                self.assertIn(out, (BODY * 2, own * 2))
            self.assertLessEqual(peer.conns, 8)
            self.assertEqual(peer.violations, [])
            return code == 0

    def at(self, stage):
        allowed = {"settings": {(SETTINGS, ON_CONN)}, "request": ALLOWED_IDLE}.get(stage, ALLOWED)
        for kind in PAYLOADS:
            for where in (ON_CONN, ON_STREAM):
                with self.subTest(kind=kind, where=where):
                    is_answered = self.ask(stage, kind, where)
                    if (kind, where) in allowed:
                        self.assertTrue(is_answered)


def add(stage):
    setattr(Frames, f"test_at_{stage}", lambda self: self.at(stage))


for one in STAGES:
    add(one)

if __name__ == "__main__":
    unittest.main()
