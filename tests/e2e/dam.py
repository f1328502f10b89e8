"""A TCP proxy on loopback that holds every conn it accepts until it is opened, and counts them.

What clients say meanwhile stays in their sockets. Once open it passes all on, ends included.
"""

import contextlib
import os
import selectors
import socket
import threading

from mooring_case import WAIT_S

PIECE = 262_144


class Way:
    """One direction of a conn: what has been read and not yet written."""

    def __init__(self, source, target):
        self.source, self.target = source, target
        self.kept = b""
        self.has_ended = False


class Dam:
    """For a with statement. One thread runs it; open() reaches it by a pipe."""

    def __init__(self, target):
        self.target = target
        self.conns = 0  # written by the thread
        self.selector = selectors.DefaultSelector()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = self.listener.getsockname()[1]
        self.held = []  # clients; None once open
        self.ways = {}  # socket: (the way it reads for, the way it writes for)
        self.waker, self.bell = os.pipe()
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.selector.register(self.waker, selectors.EVENT_READ)
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def open(self):
        os.write(self.bell, b"o")

    def serve(self):
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is self.listener:
                    self.accept()
                elif key.fileobj == self.waker:
                    if os.read(self.waker, 1) == b"q":
                        return
                    held, self.held = self.held, None
                    for client in held:
                        self.connect(client)
                elif key.fileobj in self.ways:
                    self.move(key.fileobj)

    def accept(self):
        client, _ = self.listener.accept()
        if self.held is None:
            self.connect(client)
        else:
            self.held.append(client)
        self.conns += 1

    def connect(self, client):
        server = socket.create_connection(("127.0.0.1", self.target), WAIT_S)
        up, down = Way(client, server), Way(server, client)
        for s, reads, writes in ((client, up, down), (server, down, up)):
            s.setblocking(False)
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.ways[s] = (reads, writes)
            self.selector.register(s, selectors.EVENT_READ)

    def move(self, s):
        reads, writes = self.ways[s]
        try:
            self.fill(reads)
            for way in (reads, writes):
                self.drain(way)
        except OSError:
            self.drop(s)
            return
        if all(way.has_ended and not way.kept for way in (reads, writes)):
            self.drop(s)
            return
        for one in (reads.source, reads.target):
            mine, others = self.ways[one]
            events = (not mine.kept and not mine.has_ended) * selectors.EVENT_READ
            events |= bool(others.kept) * selectors.EVENT_WRITE
            with contextlib.suppress(KeyError):
                self.selector.unregister(one)
            if events:
                self.selector.register(one, events)

    @staticmethod
    def fill(way):
        if way.kept or way.has_ended:
            return
        with contextlib.suppress(BlockingIOError):
            way.kept = way.source.recv(PIECE)
            way.has_ended = not way.kept
            if way.has_ended:
                way.target.shutdown(socket.SHUT_WR)

    @staticmethod
    def drain(way):
        if way.kept:
            with contextlib.suppress(BlockingIOError):
                way.kept = way.kept[way.target.send(way.kept):]

    def drop(self, s):
        reads, _ = self.ways[s]
        for one in (reads.source, reads.target):
            del self.ways[one]
            with contextlib.suppress(KeyError):
                self.selector.unregister(one)
            one.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.write(self.bell, b"q")
        self.thread.join(WAIT_S)
        for s in (*self.ways, *(self.held or ()), self.listener):
            s.close()
        os.close(self.waker)
        os.close(self.bell)
        self.selector.close()
