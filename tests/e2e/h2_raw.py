"""A client of HTTP/2 whose frames are in the test's hands: what it sends may break any rule.

It announces a header table of 0 bytes, so that every answer's status stands in its block by itself.
"""

import os
import socket
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))

from h2_peer import (ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, HIGHEST,  # noqa: E402
                     INITIAL_WINDOW, PING, PREFACE, RST, SETTINGS, TABLE_SIZE, WINDOW, block, data,
                     frame, reset, settings, window)
from origin_test import WAIT_S  # noqa: E402

GREETING = PREFACE + settings((TABLE_SIZE, 0), (INITIAL_WINDOW, HIGHEST)) + window(0, HIGHEST - 65535)
STATIC_STATUS = {8: 200, 9: 204, 10: 206, 11: 304, 12: 400, 13: 404, 14: 500}
# RFC 7541, appendix B: 0, 1 and 2 have 5 bits, the other digits 6.
DIGITS = {format(i, "05b"): str(i) for i in range(3)} | {format(22 + i, "06b"): str(i)
                                                        for i in range(3, 10)}


def status_of(fields):
    """Of a block without dynamic table. A change of that table's size may come first."""
    while fields[0] & 0xe0 == 0x20:
        fields = fields[1:]
    if fields[0] & 0x80:
        return STATIC_STATUS[fields[0] & 0x7f]
    if fields[0] & 0x0f != 8:
        raise AssertionError(f"the status is not first in {fields!r}")
    length, coded = fields[1] & 0x7f, fields[2:]
    if not fields[1] & 0x80:
        return int(coded[:length])
    bits, digits, at = "".join(format(b, "08b") for b in coded[:length]), "", 0
    while len(digits) < 3:
        size = 5 if bits[at:at + 5] in DIGITS else 6
        digits, at = digits + DIGITS[bits[at:at + size]], at + size
    return int(digits)


def ask(stream, path, *fields, method="GET", ends=True):
    pseudo = ((":method", method), (":scheme", "http"), (":path", path), (":authority", "t"))
    return frame(HEADERS, END_HEADERS | (END_STREAM if ends else 0), stream,
                 block(*pseudo, *fields))


class Answer:
    def __init__(self):
        self.statuses, self.pieces = [], []
        self.room = 0  # what WINDOW_UPDATE and we have left of the window, the initial one not counted
        self.is_complete, self.reset = False, None
        self.ended_at = None

    @property
    def status(self):
        return self.statuses[-1] if self.statuses else None

    @property
    def body(self):
        return b"".join(self.pieces)


class Raw:
    """greets: with preface and settings. `over`: a socket of TLS instead of a plain one."""

    def __init__(self, port, greets=True, over=None, receive_buffer=None):
        self.s = over or socket.socket()
        if not over:
            if receive_buffer:
                self.s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            self.s.settimeout(WAIT_S)
            self.s.connect(("127.0.0.1", port))
        self.rest = b""
        self.answers = {}
        self.goaways = []  # (last stream, code)
        self.pongs = 0
        self.settings = None
        self.room = 65535
        self.has_ended = False
        if greets:
            self.send(GREETING)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.s.close()

    def send(self, *pieces):
        self.s.sendall(b"".join(pieces))
        return self

    def answer(self, stream):
        return self.answers.setdefault(stream, Answer())

    def take(self):
        """What one receive gives; False at the end."""
        piece = self.s.recv(1 << 18)
        self.has_ended = not piece
        self.rest += piece
        at = 0
        while len(self.rest) - at >= 9:
            size = int.from_bytes(self.rest[at:at + 3], "big")
            if len(self.rest) - at < 9 + size:
                break
            kind, flags, stream = struct.unpack(">BBI", self.rest[at + 3:at + 9])
            self.hear(kind, flags, stream, self.rest[at + 9:at + 9 + size])
            at += 9 + size
        self.rest = self.rest[at:]
        return not self.has_ended

    def hear(self, kind, flags, stream, payload):
        if kind == SETTINGS and not flags & ACK:
            self.settings = dict(struct.iter_unpack(">HI", payload))
            self.send(frame(SETTINGS, ACK))
        elif kind == PING:
            self.pongs += flags & ACK
        elif kind == GOAWAY:
            self.goaways.append(struct.unpack(">II", payload[:8]))
        elif kind == WINDOW:
            more = struct.unpack(">I", payload)[0]
            if stream:
                self.answer(stream).room += more
            else:
                self.room += more
        elif kind == RST:
            self.answer(stream).reset = struct.unpack(">I", payload)[0]
        elif kind in (HEADERS, DATA):
            a = self.answer(stream)
            if kind == HEADERS:
                a.statuses.append(status_of(payload))
            else:
                a.pieces.append(payload)
            a.is_complete = bool(flags & END_STREAM)
            a.ended_at = time.monotonic()
            if payload and kind == DATA:
                # The stream's window was the largest there is; the conn's must be kept up.
                self.send(window(0, len(payload)))

    def until(self, true, what="what was waited for"):
        while not true():
            if not self.take():
                if true():
                    return self
                raise EOFError(f"ended before {what}; goaways {self.goaways}")
        return self

    def finish(self, *streams):
        """The answers to these, complete or reset."""
        def are_over():
            return all(self.answer(i).is_complete or self.answer(i).reset is not None
                       for i in streams)
        self.until(are_over, f"streams {streams}")
        return [self.answer(i) for i in streams]

    def get(self, stream, path, *fields, **options):
        return self.send(ask(stream, path, *fields, **options)).finish(stream)[0]

    def upload(self, stream, path, body, *fields, ends=True):
        """As windows allow; gives up when the answer is there."""
        self.send(ask(stream, path, *fields, method="POST", ends=False))
        a, at, view = self.answer(stream), 0, memoryview(body)
        self.until(lambda: self.settings, "settings")
        while at < len(body) and not a.is_complete and a.reset is None:
            room = min(self.room, a.room + self.settings.get(INITIAL_WINDOW, 65535), 16384,
                       len(body) - at)
            if room == 0:
                self.take()
                continue
            self.send(data(stream, bytes(view[at:at + room]), ends and at + room == len(body)))
            at += room
            self.room -= room
            a.room -= room
        return self

    def read_to_end(self):
        while self.take():
            pass
        return self

    def cancel(self, stream, code=8):
        return self.send(reset(stream, code))
