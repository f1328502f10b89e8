"""A server that does what a test tells it, in as much of the protocol as that takes."""

import contextlib
import socket
import struct
import threading

from mysql_case import Case

TLS_BIT = 0x800
CAPABILITIES = 0x81BFF7FE & ~TLS_BIT  # what a MariaDB has, but LOCAL_FILES is the client's affair
TIMEOUT = ("connect_timeout_ms=1000", "acquire_timeout_ms=3000", "backoff_max_ms=100")


def packet(body, number):
    return struct.pack("<I", len(body))[:3] + bytes([number]) + body


def greeting(capabilities=CAPABILITIES, plugin=b"mysql_native_password"):
    return packet(b"\x0a5.5.5-10.11.0-false\0" + struct.pack("<I", 7) + b"12345678\0" +
                  struct.pack("<HBHHB", capabilities & 0xFFFF, 45, 2, capabilities >> 16, 21) + bytes(10) +
                  b"123456789012\0" + plugin + b"\0", 0)


def ok(number=1, status=2):
    return packet(b"\0\0\0" + struct.pack("<HH", status, 0), number)


def error(code, text, number=1):
    return packet(b"\xff" + struct.pack("<H", code) + b"#HY000" + text, number)


def column():
    def text(s):
        return bytes([len(s)]) + s
    return (text(b"def") + text(b"") * 3 + text(b"a") + text(b"") + b"\x0c" +
            struct.pack("<HIBHBH", 45, 10, 253, 0, 0, 0))


class Client:
    """The socket of one connection, seen from the server."""

    def __init__(self, sock):
        self.sock = sock
        sock.settimeout(30)
        self.heard = b""

    def send(self, data):
        self.sock.sendall(data)

    def read(self):
        """One packet's body; b"" at the end."""
        header = self.exactly(4)
        return self.exactly(int.from_bytes(header[:3], "little")) if len(header) == 4 else b""

    def exactly(self, count):
        got = b""
        while len(got) < count:
            more = self.sock.recv(count - len(got))
            if not more:
                break
            got += more
        self.heard += got
        return got

    def stall(self):
        """Until it is gone, hearing all it says."""
        with contextlib.suppress(OSError):
            while more := self.sock.recv(65536):
                self.heard += more

    def log_in(self, **more):
        self.send(greeting(**more))
        self.read()
        self.send(ok(2))


class False_(threading.Thread):
    """Does `script(client)` with each connection, in a thread of its own, and hangs up after."""

    def __init__(self, script):
        super().__init__(daemon=True)
        self.script = script
        self.clients = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.start()

    def run(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            client = Client(sock)
            self.clients.append(client)
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        with contextlib.suppress(OSError):
            self.script(client)
        client.sock.close()

    def heard(self):
        return b"".join(client.heard for client in self.clients)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for client in self.clients:
            with contextlib.suppress(OSError):
                client.sock.shutdown(socket.SHUT_RDWR)


class FalseCase(Case):
    def false(self, script):
        server = False_(script)
        self.addCleanup(server.close)
        return server

    def open_false(self, script, *options, query="ssl-mode=disabled", name="f"):
        server = self.false(script)
        self.open(f"mysql://app:s3cret@127.0.0.1:{server.port}/shop?{query}", "conns_max=2", *TIMEOUT, *options,
                  name=name)
        return server

    def assert_refused(self, *words, name="f"):
        why = self.refused(name, 3000)
        for word in words:
            self.assertIn(word, why)
        return why

    def close_pool(self, name="f"):
        self.assertEqual(self.shell("close", name), "MOOR_OK")
