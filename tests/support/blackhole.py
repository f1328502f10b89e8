#!/usr/bin/env python3
"""A TCP proxy on loopback whose conns can be made black holes: what comes from either side is
dropped, nothing is passed on, not even an end: as a path that drops every packet.

Usage: blackhole.py PORT-OF-THE-SERVER
Prints its port. Each line "swallow" on standard input blackens the conns that are open then; new
ones pass. Each line "count" prints how many conns there have been. Ends with standard input.

The kernel still acknowledges what is dropped here, which a real hole would not do: a client must
not take that for life. Tests import Hole instead. One thread runs all of it; commands reach it
by a pipe.
"""

import os
import selectors
import socket
import sys
import threading


class Hole:
    """The proxy, for a with statement."""

    def __init__(self, target, address="127.0.0.1"):
        self.target = (address, target)
        self.conns = 0
        self.swallowed = 0  # bytes that came to a black conn
        self.guard = threading.Lock()
        self.selector = selectors.DefaultSelector()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        self.pairs = {}  # socket: its other side, or None once black
        self.waker, self.bell = os.pipe()
        self.is_done = threading.Event()
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.selector.register(self.waker, selectors.EVENT_READ)
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def tell(self, command):
        self.is_done.clear()
        os.write(self.bell, command)
        self.is_done.wait(60)

    def swallow(self):
        """Returns once the open conns are black."""
        self.tell(b"s")

    def serve(self):
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is self.listener:
                    self.accept()
                elif key.fileobj == self.waker:
                    command = os.read(self.waker, 1)
                    if command == b"q":
                        self.is_done.set()
                        return
                    for s in self.pairs:
                        self.pairs[s] = None
                    self.is_done.set()
                else:
                    self.pass_on(key.fileobj)

    def accept(self):
        client, _ = self.listener.accept()
        server = socket.create_connection(self.target, 60)
        with self.guard:
            self.conns += 1
        for one, other in ((client, server), (server, client)):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.pairs[one] = other
            self.selector.register(one, selectors.EVENT_READ)

    def pass_on(self, s):
        try:
            piece = s.recv(65536)
        except OSError:
            piece = b""
        if s not in self.pairs:
            return
        other = self.pairs[s]
        if other is None:
            with self.guard:
                self.swallowed += len(piece)
            if not piece:
                self.selector.unregister(s)  # it has given up; nobody on the other side hears
            return
        try:
            if piece:
                other.sendall(piece)
                return
        except OSError:
            pass
        for one in (s, other):
            if self.pairs.pop(one, None) is not None:
                self.selector.unregister(one)
            one.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.tell(b"q")
        self.thread.join(60)
        for s in (*self.pairs, self.listener):
            s.close()
        os.close(self.waker)
        os.close(self.bell)
        self.selector.close()


def main(arguments):
    if len(arguments) != 1 or not arguments[0].isdigit():
        print(__doc__, file=sys.stderr)
        return 2
    with Hole(int(arguments[0])) as proxy:
        print(proxy.port, flush=True)
        for line in sys.stdin:
            if line.strip() == "swallow":
                proxy.swallow()
            elif line.strip() == "count":
                print(proxy.conns, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
