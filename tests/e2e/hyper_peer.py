"""An HTTP/2 server in clear text by Debian's python3-h2: another engine, HPACK and judge.

A script is a function that gets a Conn and plays it frame by frame; what the library would not
say it writes raw, by hyperframe. What the client sends has to pass the library's own rules: what it
refuses is in `violations`. Each conn has a thread of its own.
"""

import collections
import socket
import threading

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from hyperframe.frame import GoAwayFrame

BODY = b"ok\n"
PAD_MAX = 255


class Ended(Exception):
    """The client has closed, or the peer is to end."""


class Request:
    def __init__(self, number, fields):
        self.number, self.fields, self.body = number, fields, b""
        self.is_complete = self.was_given = False

    def field(self, name):
        return [value for key, value in self.fields if key == name]


class Conn:
    """One accepted socket. Who waits for something reads, and reading takes care of the rest."""

    def __init__(self, peer, s, number):
        self.peer, self.socket, self.number = peer, s, number
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8",
                                           validate_outbound_headers=False,
                                           normalize_outbound_headers=False)
        self.h2 = h2.connection.H2Connection(config=config)
        self.requests = collections.OrderedDict()  # those not answered or reset
        self.refills = True  # windows open as bytes come
        self.owed = collections.Counter()  # by stream: received, windows not opened for it
        self.said, self.acks = 1, 0  # SETTINGS of ours, the library's first included
        self.pongs = []
        self.resets = {}  # by stream: the client's code
        self.goaway = None  # the client's code
        self.last = None  # of the streams our GOAWAY allowed

    # --- out

    def flush(self):
        try:
            self.socket.sendall(self.h2.data_to_send())
        except OSError as e:
            raise Ended from e

    def greet(self, **settings):
        """With the library's defaults, then with these: what a client did before it knew them is
        its right, which the library sees of later SETTINGS only."""
        self.h2.initiate_connection()
        self.flush()
        self.say_settings(**{"MAX_CONCURRENT_STREAMS": 100, **settings})

    def say_settings(self, **settings):
        """After the last ones were acknowledged: the library takes an ACK for that of them all."""
        self.until(lambda: self.acks == self.said)
        names = h2.settings.SettingCodes
        self.h2.update_settings({getattr(names, k): v for k, v in settings.items()})
        self.said += 1
        self.flush()

    def configure(self, **settings):
        """Later SETTINGS. Returns once the client has acknowledged them."""
        self.say_settings(**settings)
        self.until(lambda: self.acks == self.said)

    def ping(self, opaque):
        """Returns once it was answered."""
        self.h2.ping(opaque)
        self.flush()
        self.until(lambda: opaque in self.pongs)

    def interim(self, request, status, *fields):
        self.h2.send_headers(request.number, [(":status", str(status)), *fields])
        self.flush()

    def head(self, request, *fields, status=200, last=False):
        self.h2.send_headers(request.number, [(":status", str(status)), *fields], end_stream=last)
        self.flush()
        if last:
            self.over(request)

    def piece(self, request, body, last=False, pad=None):
        """As far as windows let it. False: the client has reset the stream."""
        at, number = 0, request.number
        extra = 0 if pad is None else pad + 1
        while at < len(body) or (last and at == len(body)):
            if number in self.resets:
                return False
            room = min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size)
            room -= extra
            if room <= 0 and (at < len(body) or extra):
                self.read()
                continue
            size = min(room, len(body) - at)
            is_last = last and at + size == len(body)
            self.h2.send_data(number, body[at:at + size], end_stream=is_last, pad_length=pad)
            self.flush()
            at += size
            if is_last:
                self.over(request)
                break
        return True

    def trailers(self, request, *fields):
        self.h2.send_headers(request.number, fields, end_stream=True)
        self.flush()
        self.over(request)

    def answer(self, request, body=None, *fields):
        """Whole. The default body echoes the request's."""
        self.head(request, *fields)
        self.piece(request, (request.body or BODY) if body is None else body, last=True)

    def over(self, request):
        self.requests.pop(request.number, None)
        self.peer.count("answered")

    def go_away(self, last, code=0):
        """Raw: the library says nothing more after its own."""
        frame = GoAwayFrame(0, last_stream_id=last, error_code=code)
        self.last = last
        self.flush()
        self.raw(frame.serialize())

    def raw(self, raw):
        try:
            self.socket.sendall(raw)
        except OSError as e:
            raise Ended from e

    # --- in

    def until(self, true):
        while not true():
            self.read()

    def request(self, is_complete=True):
        """The next one: whole, or as soon as its head is there."""
        while True:
            for request in self.requests.values():
                if not request.was_given and (request.is_complete or not is_complete):
                    request.was_given = True
                    return request
            self.read()

    def read(self):
        """What has arrived, cared for; waits for some."""
        try:
            piece = self.socket.recv(65536)
        except OSError as e:
            raise Ended from e
        if not piece:
            raise Ended
        try:
            events = self.h2.receive_data(piece)
        except h2.exceptions.ProtocolError as e:
            self.peer.note("violations", repr(e))
            self.flush()
            raise Ended from e
        for event in events:
            self.hear(event)
        self.flush()

    def hear(self, event):
        kind = type(event).__name__
        if kind == "RequestReceived" and self.last is not None and event.stream_id > self.last:
            self.peer.count("passed_over")
        elif kind == "RequestReceived":
            self.requests[event.stream_id] = Request(event.stream_id, event.headers)
            self.peer.count("requests")
        elif kind == "DataReceived":
            if event.stream_id in self.requests:
                self.requests[event.stream_id].body += event.data
            self.owed[event.stream_id] += event.flow_controlled_length
            if self.refills:
                self.refill(event.stream_id)
        elif kind == "StreamEnded" and event.stream_id in self.requests:
            self.requests[event.stream_id].is_complete = True
        elif kind == "StreamReset":
            self.requests.pop(event.stream_id, None)
            self.resets[event.stream_id] = int(event.error_code)
        elif kind == "SettingsAcknowledged":
            self.acks += 1
        elif kind == "PingAckReceived":
            self.pongs.append(event.ping_data)
        elif kind == "ConnectionTerminated":
            self.goaway = int(event.error_code)
            if self.goaway:
                self.peer.note("goaways", self.goaway)
            raise Ended

    def refill(self, number):
        """What the library lets out at once: both windows."""
        size, self.owed[number] = self.owed[number], 0
        if size:
            self.h2.acknowledge_received_data(size, number)

    def open(self, more, number=None):
        """One window of the client's, by hand."""
        self.h2.increment_flow_control_window(more, number)
        self.flush()

    def serve(self):
        """Behaves, from here on."""
        while True:
            self.answer(self.request())


def good(conn):
    conn.greet()
    conn.serve()


def leave(s):
    """Closing at once, with something unread, would throw away what has not been sent yet."""
    try:
        s.shutdown(socket.SHUT_WR)
        while s.recv(65536):
            pass
    except OSError:
        pass


class Peer:
    """The server, for a with statement. `script` plays each conn, or the first `times`."""

    def __init__(self, script=good, times=None):
        self.script, self.times = script, times
        self.guard = threading.Lock()
        self.seen = {"conns": 0, "requests": 0, "answered": 0, "violations": [], "goaways": [],
                     "faults": [], "passed_over": 0}
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

    def note(self, name, value):
        with self.guard:
            self.seen[name].append(value)

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
        script = self.script if self.times is None or number < self.times else good
        try:
            script(Conn(self, s, number))
            leave(s)
        except Ended:
            pass
        except Exception as e:  # of a script: the test that wrote it must see it
            self.note("faults", repr(e))
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
