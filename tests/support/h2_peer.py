#!/usr/bin/env python3
"""An HTTP/2 server, clear text, that breaks any rule on cue.

Usage: h2_peer.py SCENARIO [NUMBER]
       h2_peer.py --list

Prints its port, serves until standard input ends, then prints what it saw as one JSON object. Tests
import Peer instead. NUMBER means what the scenario's line says. A scenario with :once behind its
name misbehaves on the first conn only.

Frames are made by hand, because a library that keeps the rules can break none. What the client does
is judged, too: windows, frame sizes and stream limits that it has acknowledged are in `violations`.
Each conn has a thread of its own and touches its own socket only; the counts are under one lock.
"""

import json
import socket
import struct
import sys
import threading
import time

DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS, ACK = 1, 4, 1
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0, 1, 2, 3
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, CALM = 5, 6, 7, 8, 11
TABLE_SIZE, ENABLE_PUSH, STREAMS, INITIAL_WINDOW, FRAME_SIZE, LIST_SIZE = 1, 2, 3, 4, 5, 6
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HIGHEST = 2**31 - 1
FLOOD_S = 30  # a client that endures a flood for so long has failed its test
BODY = b"ok\n"


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def integer(value, bits, top=0):
    """An HPACK integer with a prefix of so many bits."""
    limit = (1 << bits) - 1
    if value < limit:
        return bytes([top | value])
    out, value = [top | limit], value - limit
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out + [value])


def text(value):
    return integer(len(value), 7) + value


def block(*fields):
    """A field block: literals only, no table."""
    return b"".join(b"\0" + text(n.encode()) + text(v.encode()) for n, v in fields)


def head(stream, *fields, status="200", flags=END_HEADERS):
    first = ((":status", status),) if status is not None else ()
    return frame(HEADERS, flags, stream, block(*first, *fields))


def settings(*pairs):
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", k, v) for k, v in pairs))


def data(stream, piece, last=False):
    return frame(DATA, END_STREAM if last else 0, stream, piece)


def reset(stream, code):
    return frame(RST, 0, stream, struct.pack(">I", code))


def goaway(last, code=NO_ERROR, why=b""):
    return frame(GOAWAY, 0, 0, struct.pack(">II", last, code) + why)


def window(stream, more):
    return frame(WINDOW, 0, stream, struct.pack(">I", more))


class Ended(Exception):
    """The client has closed, or the peer is to end."""


class Stream:
    def __init__(self, number, allowance):
        self.number = number
        self.body = b""
        self.allowance = allowance  # what the client may still send
        self.room = 0  # what we may
        self.is_complete = False
        self.was_given = False


class Conn:
    """One accepted socket. Reading takes care of settings, pings, windows and the judging."""

    def __init__(self, peer, s, number):
        self.peer, self.socket, self.number = peer, s, number
        self.buffer = b""
        self.streams = {}  # open ones
        self.last = 0
        self.answered = 0
        self.allowance = self.room = 65535
        self.pending = []  # our SETTINGS that are not acknowledged yet
        self.limits = {STREAMS: None, INITIAL_WINDOW: 65535, FRAME_SIZE: 16384}
        # What the client may not know yet binds it not; so of two values the laxer one counts.
        self.theirs = {INITIAL_WINDOW: 65535, FRAME_SIZE: 16384}
        self.acks_pings = True
        self.refills = True
        self.bytewise = False
        self.is_left = False  # the client said GOAWAY: nothing new comes from it

    # --- out

    def send(self, *frames):
        raw = b"".join(frames)
        try:
            if not self.bytewise:
                self.socket.sendall(raw)
                return
            for at in range(len(raw)):
                self.socket.sendall(raw[at:at + 1])
        except OSError as e:
            raise Ended from e

    def configure(self, *pairs):
        """SETTINGS whose acknowledgement is awaited by whoever reads."""
        self.pending.append(dict(pairs))
        self.send(settings(*pairs))

    def answer(self, stream, body=None, *fields):
        """A whole response, as fast as the client's windows let it. The default body echoes the
        request's."""
        if body is None:
            body = stream.body or BODY
        frames, at, number = [head(stream.number, *fields)], 0, stream.number
        while at < len(body):
            size = min(16384, len(body) - at, self.room, stream.room)
            if size <= 0:
                self.send(*frames)
                frames = []
                self.read()
                if number not in self.streams:
                    return  # the client has reset it
                continue
            self.room -= size
            stream.room -= size
            frames.append(data(number, body[at:at + size], at + size == len(body)))
            at += size
        if not body:
            frames.append(data(number, b"", True))
        self.answered += 1
        self.peer.count("answered")
        self.streams.pop(number, None)
        self.send(*frames)

    def reset(self, stream, code):
        self.streams.pop(stream.number, None)
        self.peer.count("reset_by_us")
        self.send(reset(stream.number, code))

    # --- in

    def take(self, size):
        while len(self.buffer) < size:
            try:
                piece = self.socket.recv(65536)
            except OSError as e:
                raise Ended from e
            if not piece:
                raise Ended
            self.buffer += piece
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken

    def greet(self, *pairs):
        if self.take(len(PREFACE)) != PREFACE:
            self.peer.violation("no preface")
            raise Ended
        self.configure(*pairs)

    def read(self):
        """One frame, cared for. Returns kind, flags, stream number and payload."""
        raw = self.take(9)
        size, kind, flags, stream = (int.from_bytes(raw[:3], "big"), raw[3], raw[4],
                                     int.from_bytes(raw[5:], "big") & HIGHEST)
        if size > self.limits[FRAME_SIZE]:
            self.peer.violation(f"frame of {size}")
        payload = self.take(size)
        if kind == SETTINGS:
            self.on_settings(flags, payload)
        elif kind == PING and not flags & ACK:
            self.peer.count("pings")
            if self.acks_pings:
                self.send(frame(PING, ACK, 0, payload))
        elif kind == GOAWAY:
            self.is_left = True
            self.peer.note("goaways", int.from_bytes(payload[4:8], "big"))
        elif kind == RST:
            self.peer.note("resets", int.from_bytes(payload, "big"))
            self.streams.pop(stream, None)
        elif kind == HEADERS:
            self.on_headers(stream, flags)
        elif kind == DATA:
            self.on_data(stream, flags, payload)
        elif kind == WINDOW:
            more = int.from_bytes(payload, "big")
            if stream == 0:
                self.room += more
            elif stream in self.streams:
                self.streams[stream].room += more
        return kind, flags, stream, payload

    def on_settings(self, flags, payload):
        if not flags & ACK:
            for at in range(0, len(payload), 6):
                key, value = struct.unpack_from(">HI", payload, at)
                if key == INITIAL_WINDOW:
                    for stream in self.streams.values():
                        stream.room += value - self.theirs[key]
                self.theirs[key] = value
            self.send(frame(SETTINGS, ACK))
            return
        self.peer.count("settings_acks")
        if not self.pending:
            self.peer.violation("an acknowledgement of nothing")
            return
        acked = self.pending.pop(0)
        if INITIAL_WINDOW in acked:
            change = acked[INITIAL_WINDOW] - self.limits[INITIAL_WINDOW]
            for stream in self.streams.values():
                stream.allowance += change
        self.limits.update(acked)

    def on_headers(self, stream, flags):
        if stream in self.streams:  # trailers
            self.streams[stream].is_complete = True
            return
        limit = self.limits[STREAMS]
        if limit is not None and len(self.streams) >= limit:
            self.peer.violation(f"stream {len(self.streams) + 1} of {limit}")
        if stream <= self.last or stream % 2 == 0:
            self.peer.violation(f"stream {stream} after {self.last}")
        if self.is_left:
            self.peer.violation(f"stream {stream} after GOAWAY")
        self.last = stream
        self.streams[stream] = Stream(stream, self.limits[INITIAL_WINDOW])
        self.streams[stream].room = self.theirs[INITIAL_WINDOW]
        self.streams[stream].is_complete = bool(flags & END_STREAM)
        self.peer.count("requests")
        self.peer.highest("most_open", len(self.streams))

    def on_data(self, number, flags, payload):
        self.allowance -= len(payload)
        stream = self.streams.get(number)
        if self.allowance < 0 or (stream and stream.allowance < len(payload)):
            self.peer.violation(f"{len(payload)} bytes beyond the window")
        if self.refills and payload:
            self.allowance += len(payload)
            self.send(window(0, len(payload)))
        if not stream:
            return
        stream.allowance -= len(payload)
        stream.body += payload
        stream.is_complete = bool(flags & END_STREAM)
        if self.refills and payload and not stream.is_complete:
            stream.allowance += len(payload)
            self.send(window(number, len(payload)))

    def request(self):
        """The next stream whose request is complete."""
        while True:
            for stream in self.streams.values():
                if stream.is_complete and not stream.was_given:
                    stream.was_given = True
                    return stream
            self.read()

    def read_ahead(self):
        """What has arrived already, so that streams opened together are seen together."""
        self.socket.setblocking(False)
        try:
            while piece := self.socket.recv(65536):
                self.buffer += piece
        except BlockingIOError:
            pass
        except OSError as e:
            raise Ended from e
        self.socket.setblocking(True)
        while len(self.buffer) >= 9 + int.from_bytes(self.buffer[:3], "big"):
            self.read()

    def serve(self):
        """Behaves, from here on."""
        while True:
            stream = self.request()
            self.read_ahead()
            self.answer(stream)

    def hear_out(self):
        """Reads until the client closes: it must see what we sent, not a reset."""
        while True:
            self.read()

    def flood(self, make):
        """Sends what make(number) returns, over and over, until the client has had enough."""
        reader = threading.Thread(target=self.drain, daemon=True)
        reader.start()
        end, number = time.monotonic() + FLOOD_S, 0
        while time.monotonic() < end:
            self.send(*[make(number + n) for n in range(100)])
            number += 100
            self.peer.highest("flooded", number)
        self.peer.violation("it endured a flood")

    def drain(self):
        try:
            self.hear_out()
        except (Ended, OSError):
            pass


SCENARIOS = {}


def scenario(run):
    SCENARIOS[run.__name__] = run
    return run


class Peer:
    """The server, for a with statement."""

    def __init__(self, name="good", number=None):
        self.run, _, once = (name.partition(":"))
        self.run, self.is_once, self.number = SCENARIOS[self.run], once == "once", number
        self.guard = threading.Lock()
        self.seen = {"conns": 0, "requests": 0, "answered": 0, "violations": [], "goaways": [],
                     "resets": [], "pings": 0, "settings_acks": 0, "most_open": 0,
                     "reset_by_us": 0, "flooded": 0}
        self.open = set()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        threading.Thread(target=self.accept, daemon=True).start()

    def __getattr__(self, name):
        with self.guard:
            return self.seen[name]

    def count(self, name):
        with self.guard:
            self.seen[name] += 1

    def highest(self, name, value):
        with self.guard:
            self.seen[name] = max(self.seen[name], value)

    def note(self, name, value):
        with self.guard:
            self.seen[name].append(value)

    def violation(self, what):
        self.note("violations", what)

    def first(self, name, number):
        """True for the first so many who ask, of all conns."""
        with self.guard:
            self.seen.setdefault(name, 0)
            self.seen[name] += 1
            return self.seen[name] <= number

    def accept(self):
        while True:
            try:
                s, _ = self.listener.accept()
            except OSError:
                return
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.guard:
                self.open.add(s)
                number = self.seen["conns"]
                self.seen["conns"] += 1
            threading.Thread(target=self.talk, args=(s, number), daemon=True).start()

    def talk(self, s, number):
        conn = Conn(self, s, number)
        try:
            if self.is_once and number > 0:
                good(conn)
            else:
                self.run(conn)
        except (Ended, OSError):
            pass
        finally:
            with self.guard:
                self.open.discard(s)
            s.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        with self.guard:
            for s in self.open:
                try:
                    s.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass


# --- what keeps the rules

@scenario
def good(conn):
    """Answers "ok", or echoes the request's body."""
    conn.greet()
    conn.serve()


@scenario
def one_byte(conn):
    """The same, each byte in a send of its own."""
    conn.bytewise = True
    conn.greet()
    conn.serve()


@scenario
def interim(conn):
    """Three interim answers first."""
    conn.greet()
    while True:
        stream = conn.request()
        conn.send(*[head(stream.number, ("link", "</a>"), status="103") for _ in range(3)])
        conn.answer(stream)


@scenario
def trailers(conn):
    """Trailers behind the body."""
    conn.greet()
    while True:
        stream = conn.request()
        conn.answered += 1
        conn.peer.count("answered")
        conn.streams.pop(stream.number)
        conn.send(head(stream.number), data(stream.number, BODY),
                  frame(HEADERS, END_STREAM | END_HEADERS, stream.number, block(("x-sum", "1"))))


@scenario
def padded(conn):
    """Padding in HEADERS and DATA, a priority, a head in three frames, frames of unknown kinds."""
    conn.greet((0x0a0a, 7))
    while True:
        stream = conn.request()
        n, fields = stream.number, block((":status", "200"), ("x-long", "y" * 300))
        conn.streams.pop(n)
        conn.peer.count("answered")
        conn.send(frame(0xfa, 0x55, n, b"whatever"),
                  frame(HEADERS, 8 | 32, n,
                        b"\5" + struct.pack(">IB", 0, 16) + fields[:5] + bytes(5)),
                  frame(CONTINUATION, 0, n, fields[5:99]),
                  frame(CONTINUATION, END_HEADERS, n, fields[99:]),
                  frame(0xfb, 0, 0, b""), frame(DATA, 8, n, b"\x09" + BODY[:1] + bytes(9)),
                  frame(DATA, 0, n, b""), frame(DATA, 8 | END_STREAM, n, b"\0" + BODY[1:]))


@scenario
def padded_body(conn):
    """2,000 DATA, each of 100 bytes and 200 of padding: the windows must be refilled with both."""
    conn.greet()
    while True:
        stream = conn.request()
        n = stream.number
        conn.send(head(n))
        for number in range(2000):
            while min(conn.room, stream.room) < 301 and n in conn.streams:
                conn.read()
            conn.room -= 301
            stream.room -= 301
            conn.send(frame(DATA, 8 | (END_STREAM if number == 1999 else 0), n,
                            b"\xc8" + b"y" * 100 + bytes(200)))
        conn.streams.pop(n, None)
        conn.peer.count("answered")


# --- how conns and streams end

@scenario
def goaway_after_n(conn):
    """Each conn answers NUMBER streams (5) and says so; those above get nothing."""
    conn.greet()
    most = conn.peer.number or 5
    for number in range(most):
        stream = conn.request()
        conn.read_ahead()
        if number == most - 1:
            conn.send(goaway(stream.number))
        conn.answer(stream)
    conn.hear_out()


@scenario
def goaway_zero(conn):
    """GOAWAY with last id 0 when the first request is there."""
    conn.greet()
    conn.request()
    conn.send(goaway(0))
    conn.hear_out()


@scenario
def goaway_at_once(conn):
    """The same before any request is read."""
    conn.greet()
    conn.send(goaway(0))
    conn.hear_out()


@scenario
def goaway_twice(conn):
    """As RFC 9113 6.8 advises: 2^31-1, a moment, then the last id served; after NUMBER (5)."""
    conn.greet()
    most = conn.peer.number or 5
    for _ in range(most):
        conn.answer(conn.request())
    conn.send(goaway(HIGHEST))
    conn.send(frame(PING, 0, 0, b"lastcall"))
    while True:
        kind, flags, _, payload = conn.read()
        if kind == PING and flags & ACK and payload == b"lastcall":
            break
    for stream in list(conn.streams.values()):
        if stream.is_complete:
            conn.answer(stream)
    conn.send(goaway(conn.last))
    conn.hear_out()


@scenario
def goaway_mid_body(conn):
    """GOAWAY between two DATA of the only stream accepted: it must come to its end."""
    conn.greet()
    stream = conn.request()
    conn.send(head(stream.number), data(stream.number, BODY[:1]), goaway(stream.number))
    time.sleep(0.05)
    conn.peer.count("answered")
    conn.streams.pop(stream.number)
    conn.send(data(stream.number, BODY[1:], True))
    conn.hear_out()


@scenario
def goaway_error(conn):
    """GOAWAY INTERNAL_ERROR after the request's head, which it names as accepted."""
    conn.greet()
    conn.send(goaway(conn.request().number, INTERNAL_ERROR, b"out of rope"))
    raise Ended


@scenario
def calm_goaway(conn):
    """GOAWAY ENHANCE_YOUR_CALM for whoever asks."""
    conn.greet()
    conn.request()
    conn.send(goaway(0, CALM, b"too_many"))
    conn.hear_out()


@scenario
def calm_rst(conn):
    """RST_STREAM ENHANCE_YOUR_CALM for the first NUMBER requests (all)."""
    refuse(conn, CALM)


@scenario
def refuse_first_n(conn):
    """RST_STREAM REFUSED_STREAM for the first NUMBER requests (all)."""
    refuse(conn, REFUSED_STREAM)


def refuse(conn, code):
    most = 10**9 if conn.peer.number is None else conn.peer.number
    conn.greet()
    while True:
        stream = conn.request()
        if conn.peer.first("refused", most):
            conn.reset(stream, code)
        else:
            conn.answer(stream)


@scenario
def rst_internal(conn):
    """RST_STREAM INTERNAL_ERROR for the first NUMBER requests (all)."""
    refuse(conn, INTERNAL_ERROR)


@scenario
def rst_mid_body(conn):
    """RST_STREAM behind a part of the body."""
    conn.greet()
    while True:
        stream = conn.request()
        conn.send(head(stream.number, ("content-length", "10")), data(stream.number, BODY))
        conn.reset(stream, CANCEL)


@scenario
def rst_after_answer(conn):
    """The whole response, then RST_STREAM NO_ERROR for the request's body (RFC 9113 8.1)."""
    conn.greet()
    while True:
        conn.read()
        for stream in list(conn.streams.values()):
            stream.was_given = True
            conn.answer(stream, BODY)
            conn.send(reset(stream.number, NO_ERROR))


def closing(when):
    def run(conn):
        if when == "accept":
            return
        if when == "preface":
            conn.take(len(PREFACE))
            return
        conn.greet()
        if when == "settings":
            return
        if when == "ack":
            while conn.pending:
                conn.read()
            return
        stream = conn.request()
        n = stream.number
        whole = head(n, ("content-length", "10"))
        conn.send({
            "request": b"",
            "cut_header": whole[:5],
            "cut_head": whole[:-3],
            "head": whole,
            "cut_data": whole + data(n, b"0123456789", True)[:-4],
            "data": whole + data(n, b"01234"),
            "no_length": head(n) + data(n, b"01234"),
        }[when])
    run.__doc__ = f"Closes: {when}."
    run.__name__ = "close_" + when
    return run


CLOSINGS = ("accept", "preface", "settings", "ack", "request", "cut_header", "cut_head", "head",
            "cut_data", "data", "no_length")
for stage in CLOSINGS:
    scenario(closing(stage))


@scenario
def stall(conn):
    """Greets, reads everything, acknowledges settings and pings, answers nothing."""
    conn.greet()
    conn.hear_out()


@scenario
def silent(conn):
    """Accepts, reads and says nothing at all, not even SETTINGS."""
    while conn.take(1):
        pass


@scenario
def never_ack_ping(conn):
    """Answers the first request of a conn, then neither pings nor requests."""
    conn.acks_pings = False
    conn.greet()
    conn.answer(conn.request())
    conn.hear_out()


@scenario
def stall_mid_body(conn):
    """A head and a part of the body, then only acknowledgements."""
    conn.greet()
    stream = conn.request()
    conn.send(head(stream.number), data(stream.number, BODY))
    conn.hear_out()


# --- settings and windows

@scenario
def settings_zero_streams(conn):
    """No streams at all for a moment, though those that came early are served; then NUMBER (5)."""
    zero_streams(conn, refuses=False)


@scenario
def settings_zero_refused(conn):
    """The same, and those that came early are refused."""
    zero_streams(conn, refuses=True)


def zero_streams(conn, refuses):
    conn.greet((STREAMS, 0))
    while conn.pending:
        conn.read()
    for stream in list(conn.streams.values()) if refuses else ():
        conn.reset(stream, REFUSED_STREAM)
    time.sleep(0.2)
    conn.configure((STREAMS, conn.peer.number or 5))
    conn.serve()


@scenario
def settings_midflight(conn):
    """Streams: 100, after 20 answers 1, after 20 more 50."""
    conn.greet((STREAMS, 100))
    while True:
        stream = conn.request()
        conn.read_ahead()
        conn.answer(stream)
        if conn.answered == 20:
            conn.configure((STREAMS, 1))
        if conn.answered == 40:
            conn.configure((STREAMS, 50))


@scenario
def settings_lowered(conn):
    """When NUMBER streams (10) are open, two are allowed; then all are answered."""
    conn.greet((STREAMS, 100))
    got = [conn.request() for _ in range(conn.peer.number or 10)]
    conn.configure((STREAMS, 2))
    while conn.pending:
        conn.read()
    for stream in got:
        conn.answer(stream)
    conn.serve()


@scenario
def window_one(conn):
    """The client may send one byte at a time and stream."""
    conn.greet((INITIAL_WINDOW, 1))
    conn.serve()


@scenario
def window_zero_raised(conn):
    """No byte at first; a moment later SETTINGS allow all."""
    conn.greet((INITIAL_WINDOW, 0))
    while not conn.streams or conn.pending:
        conn.read()
    time.sleep(0.1)
    conn.configure((INITIAL_WINDOW, 65535))
    conn.serve()


@scenario
def window_settings(conn):
    """What a stream may send is only ever raised by SETTINGS: shut before the second request and in its
    middle, opened a moment later."""
    conn.greet()
    first = conn.request()
    conn.configure((INITIAL_WINDOW, 0))
    while conn.pending:
        conn.read()
    conn.refills = False
    conn.answer(first)
    while not conn.streams:
        conn.read()
    time.sleep(0.05)
    conn.configure((INITIAL_WINDOW, 1000))
    while sum(len(s.body) for s in conn.streams.values()) < 1000:
        conn.read()
    time.sleep(0.05)
    conn.configure((INITIAL_WINDOW, 2**20))
    conn.serve()


@scenario
def window_negative(conn):
    """In the middle of a body the window shrinks to less than what is out already."""
    conn.refills = False
    conn.greet()
    got = 0
    while got < 30000:
        kind, _, _, payload = conn.read()
        got += len(payload) if kind == DATA else 0
    conn.configure((INITIAL_WINDOW, 10))
    while conn.pending:
        conn.read()
    time.sleep(0.1)
    conn.refills = True
    conn.allowance += 2**24
    conn.send(window(0, 2**24))
    for stream in conn.streams.values():
        stream.allowance += 2**24
        conn.send(window(stream.number, 2**24))
    conn.serve()


@scenario
def frame_size_changes(conn):
    """MAX_FRAME_SIZE 32768, and 16384 after the first request."""
    conn.greet((FRAME_SIZE, 32768), (INITIAL_WINDOW, 1 << 20))
    conn.answer(conn.request())
    conn.configure((FRAME_SIZE, 16384))
    conn.serve()


def breaking(name, doc, *make):
    """A scenario: the request is read, the frames that each of `make` gives for it are sent."""
    def run(conn):
        conn.greet()
        stream = conn.request()
        for one in make:
            conn.send(one(stream.number, conn))
        conn.hear_out()
    run.__name__, run.__doc__ = name, doc
    scenario(run)


def good_answer(n, _):
    return head(n) + data(n, BODY, True)


breaking("window_overflow_conn", "WINDOW_UPDATE of the conn beyond 2^31-1.",
         lambda n, c: window(0, HIGHEST) + window(0, HIGHEST))
breaking("window_overflow_stream", "WINDOW_UPDATE of the stream beyond 2^31-1.",
         lambda n, c: head(n) + window(n, HIGHEST) + window(n, HIGHEST))
breaking("window_zero_increment", "WINDOW_UPDATE of 0.", lambda n, c: window(0, 0))
breaking("window_overflow_settings", "INITIAL_WINDOW_SIZE of 2^31.",
         lambda n, c: settings((INITIAL_WINDOW, 2**31)))
breaking("frame_size_invalid", "MAX_FRAME_SIZE of 1.", lambda n, c: settings((FRAME_SIZE, 1)))
breaking("push_enabled", "ENABLE_PUSH of 2.", lambda n, c: settings((ENABLE_PUSH, 2)))
breaking("settings_odd_size", "SETTINGS of 5 bytes.", lambda n, c: frame(SETTINGS, 0, 0, bytes(5)))
breaking("ping_odd_size", "PING of 7 bytes.", lambda n, c: frame(PING, 0, 0, bytes(7)))
breaking("frame_too_large", "DATA larger than the client's MAX_FRAME_SIZE.",
         lambda n, c: head(n) + data(n, bytes(c.theirs[FRAME_SIZE] + 1)))
breaking("data_unknown_stream", "DATA on a stream that nobody opened.",
         lambda n, c: data(n + 100, BODY))
breaking("data_even_stream", "DATA on a stream that only we could have opened.",
         lambda n, c: data(2, BODY))
breaking("data_stream_zero", "DATA on stream 0.", lambda n, c: data(0, BODY))
breaking("data_before_head", "DATA before HEADERS.", lambda n, c: data(n, BODY, True))
breaking("rst_unknown_stream", "RST_STREAM of a stream that nobody opened.",
         lambda n, c: reset(n + 100, CANCEL))
breaking("goaway_rising", "GOAWAY whose id rises.", lambda n, c: goaway(0) + goaway(n + 100))
breaking("data_closed_stream", "A whole answer, then DATA on the same stream.",
         lambda n, c: good_answer(n, c) + data(n, BODY))
breaking("length_more", "content-length above what comes.",
         lambda n, c: head(n, ("content-length", "10")) + data(n, BODY, True))
breaking("length_fewer", "content-length below what comes.",
         lambda n, c: head(n, ("content-length", "1")) + data(n, BODY, True))
breaking("length_no_body", "content-length, and the stream ends with the head.",
         lambda n, c: head(n, ("content-length", "10"), flags=END_STREAM | END_HEADERS))
breaking("length_twice", "Two content-lengths that differ.",
         lambda n, c: head(n, ("content-length", "3"), ("content-length", "4")) +
         data(n, BODY, True))
breaking("length_garbage", "A content-length that is no number.",
         lambda n, c: head(n, ("content-length", "3x")) + data(n, BODY, True))
breaking("headers_twice", "A second response on the same stream.",
         lambda n, c: head(n) + head(n) + data(n, BODY, True))
breaking("trailers_pseudo", "A pseudo header among the trailers.",
         lambda n, c: head(n) + data(n, BODY) +
         head(n, status="200", flags=END_STREAM | END_HEADERS))
breaking("trailers_open", "Trailers that do not end the stream.",
         lambda n, c: head(n) + data(n, BODY) + frame(HEADERS, END_HEADERS, n, block(("a", "b"))) +
         data(n, BODY, True))
breaking("interim_ends", "An interim answer that ends the stream.",
         lambda n, c: head(n, status="103", flags=END_STREAM | END_HEADERS))
breaking("switching_protocols", "Status 101, which HTTP/2 has not.",
         lambda n, c: head(n, status="101") + good_answer(n, c))
breaking("header_upper_case", "A header's name in upper case.",
         lambda n, c: head(n, ("X-Loud", "1")) + data(n, BODY, True))
breaking("header_connection", "connection: close.",
         lambda n, c: head(n, ("connection", "close")) + data(n, BODY, True))
breaking("header_transfer_encoding", "transfer-encoding: chunked.",
         lambda n, c: head(n, ("transfer-encoding", "chunked")) + data(n, BODY, True))
breaking("header_newline", "A line break in a value: response splitting.",
         lambda n, c: head(n, ("x", "a\r\nset-cookie: b")) + data(n, BODY, True))
breaking("header_empty_name", "A header without a name.",
         lambda n, c: head(n, ("", "1")) + data(n, BODY, True))
breaking("header_unknown_pseudo", "A pseudo header that no response has.",
         lambda n, c: head(n, (":path", "/")) + data(n, BODY, True))
breaking("status_missing", "No :status.",
         lambda n, c: head(n, ("x", "y"), status=None) + data(n, BODY, True))
breaking("status_late", "A :status behind other headers.",
         lambda n, c: head(n, ("x", "y"), (":status", "200"), status=None) + data(n, BODY, True))
breaking("status_garbage", "A :status that is no number.",
         lambda n, c: head(n, status="abc") + data(n, BODY, True))
breaking("status_twice", "Two of them.",
         lambda n, c: head(n, (":status", "200")) + data(n, BODY, True))
breaking("hpack_garbage", "A field block that cannot be decoded.",
         lambda n, c: frame(HEADERS, END_HEADERS, n, b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f"))
breaking("hpack_bad_index", "A field block with an index that is not there.",
         lambda n, c: frame(HEADERS, END_HEADERS, n, integer(4000, 7, 0x80)))
breaking("hpack_table_size", "A dynamic table above what the client allows.",
         lambda n, c: frame(HEADERS, END_HEADERS, n, integer(1 << 30, 5, 0x20) + b"\x88"))
breaking("push_promise", "PUSH_PROMISE, though push is off.",
         lambda n, c: frame(PUSH, END_HEADERS, n, struct.pack(">I", 2) +
                            block((":method", "GET"), (":path", "/"), (":scheme", "http"),
                                  (":authority", "x"))) + good_answer(n, c))
breaking("continuation_alone", "CONTINUATION without HEADERS.",
         lambda n, c: frame(CONTINUATION, END_HEADERS, n, block((":status", "200"))))
breaking("continuation_torn", "DATA between HEADERS and CONTINUATION.",
         lambda n, c: frame(HEADERS, 0, n, block((":status", "200"))) + data(n, BODY))
breaking("padding_too_long", "Padding longer than its frame.",
         lambda n, c: head(n) + frame(DATA, 8 | END_STREAM, n, b"\xff" + BODY))
breaking("header_huge", "One header of 1 MiB.",
         lambda n, c: frame(HEADERS, 0, n, block((":status", "200"))) +
         pieces_of(n, block(("x-huge", "y" * (1 << 20)))))
breaking("http1_answer", "An HTTP/1.1 response.",
         lambda n, c: b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")


def pieces_of(n, fields):
    return b"".join(frame(CONTINUATION, END_HEADERS if at + 16384 >= len(fields) else 0, n,
                          fields[at:at + 16384]) for at in range(0, len(fields), 16384))


@scenario
def settings_missing(conn):
    """The first frame is no SETTINGS."""
    conn.take(len(PREFACE))
    conn.send(frame(PING, 0, 0, bytes(8)))
    conn.hear_out()


@scenario
def settings_unasked_ack(conn):
    """An acknowledgement of more SETTINGS than there were: harmless or an error, never a crash."""
    conn.greet()
    stream = conn.request()
    conn.send(frame(SETTINGS, ACK) * 3)
    conn.answer(stream)
    conn.hear_out()


@scenario
def beyond_window(conn):
    """DATA without end, whatever the client's windows say."""
    conn.greet()
    stream = conn.request()
    conn.send(head(stream.number))
    # Whether the client reads on is its own choice: only that it does not take it all counts.
    conn.flood(lambda _: data(stream.number, bytes(16384)))


# --- floods: each goes on until the client closes

def flooding(name, doc, make, first=None):
    def run(conn):
        conn.greet()
        stream = conn.request()
        if first:
            conn.send(first(stream.number))
        conn.flood(lambda i: make(stream.number, i))
    run.__name__, run.__doc__ = name, doc
    scenario(run)


flooding("flood_continuation", "CONTINUATION, for ever, each with a field.",
         lambda n, i: frame(CONTINUATION, 0, n, block((f"x{i}", "y"))),
         lambda n: frame(HEADERS, 0, n, block((":status", "200"))))
flooding("flood_continuation_empty", "The same, empty.",
         lambda n, i: frame(CONTINUATION, 0, n),
         lambda n: frame(HEADERS, 0, n, block((":status", "200"))))
flooding("flood_ping", "PING.", lambda n, i: frame(PING, 0, 0, struct.pack(">Q", i)))
flooding("flood_ping_ack", "Answers to pings that nobody sent.",
         lambda n, i: frame(PING, ACK, 0, struct.pack(">Q", i)))
flooding("flood_settings", "SETTINGS.", lambda n, i: settings((STREAMS, 100 + i % 2)))
flooding("flood_settings_empty", "SETTINGS without any.", lambda n, i: settings())
flooding("flood_settings_ack", "Acknowledgements of SETTINGS.",
         lambda n, i: frame(SETTINGS, ACK))
flooding("flood_rst", "RST_STREAM of the same stream.", lambda n, i: reset(n, CANCEL))
flooding("flood_data_empty", "Empty DATA.", lambda n, i: data(n, b""), head)
flooding("flood_data_padding", "DATA of padding alone.",
         lambda n, i: frame(DATA, 8, n, b"\x0f" + bytes(15)), head)
flooding("flood_interim", "Interim answers.", lambda n, i: head(n, status="103"))
flooding("flood_window", "WINDOW_UPDATE of 1.", lambda n, i: window(0, 1))
flooding("flood_priority", "PRIORITY of stream after stream.",
         lambda n, i: frame(PRIORITY, 0, 2 * i + 1, struct.pack(">IB", 0, 16)))
flooding("flood_goaway", "GOAWAY, with the stream accepted.", lambda n, i: goaway(n))
flooding("flood_unknown", "Frames of a kind nobody knows.",
         lambda n, i: frame(0xf0, 0, 0, bytes(1000)))
flooding("flood_altsvc", "ALTSVC.",
         lambda n, i: frame(10, 0, 0, b"\0\1x" + b'h2=":1"' + b" " * 1000))


def afterwards(name, doc, make):
    """The first request is answered in one send with what make() returns: it meets an idle conn."""
    def run(conn):
        conn.greet()
        stream = conn.request()
        conn.streams.pop(stream.number)
        conn.peer.count("answered")
        conn.send(head(stream.number), data(stream.number, BODY, True), make())
        conn.hear_out()
    run.__name__, run.__doc__ = name, doc
    scenario(run)


afterwards("idle_flood", "An answer, and a flood of SETTINGS behind it.",
           lambda: settings((STREAMS, 100)) * 20000)
afterwards("idle_ping_odd_size", "An answer, and a PING of 7 bytes behind it.",
           lambda: frame(PING, 0, 0, bytes(7)))
afterwards("idle_window_overflow", "An answer, and WINDOW_UPDATE beyond 2^31-1 behind it.",
           lambda: window(0, HIGHEST) * 2)
afterwards("idle_push", "An answer, and PUSH_PROMISE behind it.",
           lambda: frame(PUSH, END_HEADERS, 1, struct.pack(">I", 2) + block((":path", "/"))))
afterwards("idle_goaway", "An answer, and GOAWAY behind it.", lambda: goaway(1))
afterwards("idle_zero_streams", "An answer, and no streams any more.",
           lambda: settings((STREAMS, 0)))


@scenario
def header_bomb(conn):
    """A field of 3 KiB put into HPACK's table, and 16,000 references of a byte to it: 48 MiB."""
    conn.greet()
    stream = conn.request()
    bomb = b"\x88" + b"\x40" + text(b"x") + text(b"y" * 3000) + b"\xbe" * 16000
    conn.send(frame(HEADERS, 0, stream.number, bomb[:16384]) +
              pieces_of(stream.number, bomb[16384:]) + data(stream.number, BODY, True))
    conn.hear_out()


@scenario
def large_head(conn):
    """A response's head of 300 KB, in as many frames as it takes."""
    conn.greet()
    fields = block((":status", "200"), *((f"x-{n}", "y" * 15000) for n in range(20)))
    while True:
        n = conn.request().number
        conn.streams.pop(n)
        conn.peer.count("answered")
        conn.send(frame(HEADERS, 0, n, fields[:16384]) + pieces_of(n, fields[16384:]) +
                  data(n, BODY, True))


@scenario
def window_shut(conn):
    """No byte of a body, ever."""
    conn.greet((INITIAL_WINDOW, 0))
    conn.hear_out()


@scenario
def deaf_to_pings(conn):
    """Answers requests, each after a while, and no PING."""
    conn.acks_pings = False
    conn.greet()
    while True:
        stream = conn.request()
        time.sleep(0.05)
        conn.answer(stream)


def main(arguments):
    if arguments == ["--list"]:
        for name, run in SCENARIOS.items():
            print(f"{name:26} {run.__doc__.splitlines()[0]}")
        return 0
    if not arguments or arguments[0].partition(":")[0] not in SCENARIOS or len(arguments) > 2:
        print(__doc__, file=sys.stderr)
        return 2
    with Peer(arguments[0], int(arguments[1]) if arguments[1:] else None) as peer:
        print(peer.port, flush=True)
        sys.stdin.read()
        with peer.guard:
            print(json.dumps(peer.seen), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
