"""What the tests of the program share: an origin of their own, faulty peers, running the program."""

import os
import select
import signal
import socket
import struct
import subprocess
import threading
import urllib.request

WAIT_S = 60  # far above what anything here takes, sanitizers on a busy machine included


def pattern(length):
    period = bytes(i * 131 % 251 for i in range(251))
    return (period * (length // 251 + 1))[:length]


def read_line(stream):
    line = b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([stream], [], [], WAIT_S)
        piece = os.read(stream.fileno(), 1) if ready else b""
        if not piece:
            raise AssertionError(f"no line, only {line!r}")
        line += piece
    return line.decode().rstrip("\n")


class Origin:
    """mooring-origin on a free port, for a with statement."""

    def __init__(self, program, *options):
        self.process = subprocess.Popen([program, *options], stdout=subprocess.PIPE)
        self.base = read_line(self.process.stdout).split(" ")[-1]
        self.port = int(self.base.rsplit(":", 1)[1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(WAIT_S)
        self.process.stdout.close()

    def url(self, target):
        return self.base + target

    def ask(self, target):
        with urllib.request.urlopen(self.url(target), timeout=WAIT_S) as answer:
            return answer.read()


def closed_port():
    """A port where nobody listens: bound, so that nobody else can, never listened on."""
    s = socket.socket()
    s.bind(("127.0.0.1", 0))
    return s, s.getsockname()[1]


class BlackHole:
    """A listener whose queue is full: connects to it hang."""

    def __init__(self):
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(0)
        self.port = self.listener.getsockname()[1]
        self.fillers = []
        for _ in range(4):
            s = socket.socket()
            s.setblocking(False)
            s.connect_ex(("127.0.0.1", self.port))
            self.fillers.append(s)
        # Those that made it into the queue are writable; one that did not proves it full.
        _, done, _ = select.select([], self.fillers, [], 0.3)
        self.is_full = len(done) < len(self.fillers)

    def close(self):
        for s in (*self.fillers, self.listener):
            s.close()


class NoSuchName:
    """A name server that knows no name."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.socket.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                query, peer = self.socket.recvfrom(2048)
            except OSError:
                return
            end = query.index(b"\0", 12) + 5
            self.socket.sendto(query[:2] + struct.pack(">HHHHH", 0x8183, 1, 0, 0, 0) +
                               query[12:end], peer)

    def close(self):
        self.socket.close()


def environment(**variables):
    """Ours, without what would tune the program, except the backend this run of the tests is for."""
    kept = {k: v for k, v in os.environ.items()
            if not k.startswith("MOORING_") or k == "MOORING_IO_BACKEND"}
    kept.update(variables)
    return kept


def run(program, *arguments, stdin=b"", **variables):
    """Returns exit code, standard output and standard error, the latter as text."""
    done = subprocess.run([program, *arguments], input=stdin, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=WAIT_S, check=False,
                          env=environment(**variables))
    return done.returncode, done.stdout, done.stderr.decode()
