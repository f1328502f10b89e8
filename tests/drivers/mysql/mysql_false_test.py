"""Servers that stall, lie, talk too much or go away, at every stage: the keeper serves others meanwhile, whoever
waits is told why in time, and nothing of what was begun stays behind (the shell's end checks for leaks).
"""

import contextlib
import signal
import socket
import struct
import sys
import tempfile
import threading
import time

from mysql_case import Case, Certificates, Server, main, wait_until

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


class ConnectTest(FalseCase):
    def test_stalls(self):
        """Each is given up after connect_timeout_ms, and freed where it stands."""
        def after_switch(c):
            c.send(greeting())
            c.read()
            c.send(packet(b"\xfeclient_ed25519\0" + b"x" * 32, 2))
            c.read()
            c.stall()

        def after_login(c):
            c.send(greeting())
            c.read()
            c.stall()

        def in_ok(c):
            c.send(greeting())
            c.read()
            c.send(ok(2)[:5])
            c.stall()

        def in_greeting(c):
            c.send(greeting()[:30])
            c.stall()

        scripts = {"at once": Client.stall, "in its greeting": in_greeting, "after login": after_login,
                   "after a switch": after_switch, "in its answer": in_ok}
        for query in ("ssl-mode=disabled", "ssl-mode=preferred"):
            for name, script in scripts.items():
                with self.subTest(name, query=query):
                    server = self.open_false(script, "conns_max=1", "connect_timeout_ms=300", query=query)
                    self.assert_refused("TIMEDOUT")
                    self.close_pool()
                    self.assertTrue(server.clients)

    def test_closed_while_it_stalls(self):
        """The pool does not wait for the connect's end."""
        server = self.open_false(Client.stall, "connect_timeout_ms=60000")
        self.refused("f", 300)
        wait_until(lambda: server.clients, "it dials")
        self.close_pool()

    def test_hangs_up(self):
        def in_greeting(c):
            c.send(greeting()[:30])

        def after_login(c):
            c.send(greeting())
            c.read()

        for query in ("ssl-mode=disabled", "ssl-mode=preferred", "ssl-mode=required"):
            for name, script in {"at once": lambda c: None, "in its greeting": in_greeting,
                                 "after login": after_login}.items():
                with self.subTest(name, query=query):
                    self.open_false(script, "acquire_timeout_ms=500", query=query)
                    why = self.refused("f", 500)
                    self.assertIn("TLS" if query.endswith("required") and name == "after login" else "ost", why)
                    self.close_pool()

    def test_no_greeting_of_mysql(self):
        for name, data, word in (("http", b"HTTP/1.1 400 Bad Request\r\n\r\n", "MOOR_"),
                                 ("an old version", packet(b"\x095.5\0", 0), "rotocol"),
                                 ("zeros", bytes(64), "MOOR_"),
                                 ("cut", packet(b"\x0a5.5.5-10.11.0-false\0" + bytes(8), 0), "MOOR_")):
            with self.subTest(name):
                self.open_false(lambda c, d=data: (c.send(d), c.stall()))
                self.assert_refused(word)
                self.close_pool()

    def test_says_that_it_is_full(self):
        self.open_false(lambda c: c.send(error(1040, b"Too many\x1b[31m connections", 0)))
        why = self.assert_refused("Too many?[31m connections", "1040")
        self.assertNotIn("\x1b", why)

    def test_packet_without_an_end(self):
        """packet-max bounds what a server can make libmariadb keep."""
        sent = []

        def flood(c):
            c.send(greeting())
            c.read()
            while True:
                c.send(packet(bytes(0xFFFFFF), 2 + len(sent)))
                sent.append(1)

        self.open_false(flood, query="ssl-mode=disabled&packet-max=1000000")
        self.assert_refused("MOOR_ERESET")  # so libmariadb calls it
        self.close_pool()
        self.assertEqual(sent, [])  # it did not even hear one to its end


class SecretTest(FalseCase):
    def test_no_plain_password(self):
        for plugin in (b"mysql_clear_password", b"dialog", b"mysql_old_password", b"sha256_password",
                       b"caching_sha2_password"):
            with self.subTest(plugin):
                def script(c, wanted=plugin):
                    c.send(greeting())
                    c.read()
                    c.send(packet(b"\xfe" + wanted + b"\0" + b"12345678901234567890\0", 2))
                    c.stall()

                server = self.open_false(script)
                self.assert_refused("MOOR_EAUTH", "`auth` does not allow")
                self.assertNotIn(b"s3cret", server.heard())
                self.close_pool()

    def test_plugin_out_of_a_file(self):
        """MySQL's, in its short form: the server knows the password already."""
        def script(c):
            c.send(greeting(plugin=b"caching_sha2_password"))
            c.read()
            c.send(packet(b"\x01\x03", 2) + ok(3))
            c.stall()

        self.open_false(script, query="ssl-mode=disabled&auth=caching_sha2_password")
        self.acquire("a", "f")
        self.release("a")

    def test_greets_with_a_plugin_that_is_not_allowed(self):
        server = self.open_false(lambda c: (c.send(greeting(plugin=b"mysql_clear_password")), c.stall()))
        self.assert_refused("MOOR_EAUTH")
        self.assertNotIn(b"s3cret", server.heard())

    def test_nothing_is_said_without_tls(self):
        """Who takes TLS out of the greeting gets nothing to guess the password by."""
        for mode in ("required", "verify-identity"):
            with self.subTest(mode):
                server = self.open_false(lambda c: (c.send(greeting()), c.stall()), query=f"ssl-mode={mode}")
                self.assert_refused("MOOR_ETLS")
                self.assertEqual(server.heard(), b"")
                self.close_pool()


class TlsTest(FalseCase):
    """The handshake is on a helper: a server that stalls there keeps nobody else waiting."""

    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.addClassCleanup(cls.server.close)
        cls.tls = Certificates()
        cls.addClassCleanup(cls.tls.close)

    def handshake(self, go_on):
        def script(c):
            c.send(greeting(CAPABILITIES | TLS_BIT))
            c.read()
            c.sock.recv(4096)
            go_on(c)
        return script

    def test_others_are_served_while_it_stalls(self):
        server = self.open_false(self.handshake(Client.stall), "connect_timeout_ms=8000",
                                 query="ssl-mode=required")
        self.refused("f", 300)
        wait_until(lambda: server.clients and server.clients[0].heard, "it is at the handshake")
        self.open(self.server.url("ssl-mode=disabled"), name="q")
        self.acquire("a", "q", 5000)
        self.assertEqual(self.shell.query("a", "select 1"), "1;")
        self.release()
        self.assertEqual(self.shell.stats("f", "dials"), 1)  # it stalls still

    def test_others_are_served_while_a_check_stalls(self):
        """And a reset, and the goodbye: with TLS a read of libmariadb's blocks as the descriptor does."""
        server = Server(*self.tls.options())
        self.addCleanup(server.close)
        for option in ("check_on_return=1", "reset=1"):
            with self.subTest(option):
                self.open(server.url("ssl-mode=required"), option, "connect_timeout_ms=2000", "conns_max=2",
                          name="f")
                self.acquire("a", "f")
                self.acquire("b", "f")
                self.open(self.server.url("ssl-mode=disabled"), name="q")
                server.process.send_signal(signal.SIGSTOP)
                try:
                    begun = time.monotonic()
                    self.release("a")
                    self.release("b", "discard")
                    self.acquire("c", "q", 1500)
                    self.assertEqual(self.shell.query("c", "select 1"), "1;")
                    self.assertLess(time.monotonic() - begun, 1.5)
                    self.release("c")
                    self.close_pool()
                finally:
                    server.process.send_signal(signal.SIGCONT)
                self.close_pool("q")

    def test_many_stall(self):
        """More than there are helpers: they end by their own time."""
        self.open_false(self.handshake(Client.stall), "conns_max=8", query="ssl-mode=required")
        self.assertNotEqual(self.shell("warm", "f", 8), "MOOR_OK")
        self.assertEqual(self.shell.stats("f", "conns_open"), 0)

    def test_dribbles(self):
        """A byte of the handshake now and then: no read is late, all of them are."""
        def dribble(c):
            c.send(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc")
            for _ in range(600):
                c.send(b"\0")
                time.sleep(0.1)

        server = self.open_false(self.handshake(dribble), "conns_max=1", query="ssl-mode=required")
        self.assert_refused("TIMEDOUT")
        begun = time.monotonic()
        self.close_pool()  # waits for the helper
        self.assertLess(time.monotonic() - begun, 4, "it was not given up")
        self.assertTrue(server.clients)

    def test_garbage(self):
        self.open_false(self.handshake(lambda c: c.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
                        query="ssl-mode=required")
        self.assert_refused("MOOR_ETLS")


class PrepareTest(FalseCase):
    def serve(self, answer):
        """Logs in, hears prepare_sql, does `answer`."""
        def script(c):
            c.log_in()
            c.read()
            answer(c)
            c.stall()
        return script

    def test_asks_for_a_file(self):
        """It gets one only if the URL says so."""
        with tempfile.NamedTemporaryFile() as f:
            f.write(b"do not send this")
            f.flush()

            def ask(c):
                c.send(packet(b"\xfb" + f.name.encode(), 1))
                while c.read():
                    pass
                c.send(error(1148, b"as you like", 3))

            for query, expected in (("", False), ("&local-infile=true", True)):
                with self.subTest(query):
                    server = self.open_false(self.serve(ask), "prepare=load data local infile 'x' into table t",
                                             query="ssl-mode=disabled" + query)
                    self.assert_refused("prepare_sql")
                    self.assertEqual(b"do not send" in server.heard(), expected)
                    self.close_pool()

    def test_rows_without_an_end(self):
        def rows(c):
            c.send(packet(b"\x01", 1) + packet(column(), 2) + packet(b"\xfe\0\0\2\0", 3))
            number = 4
            while True:
                c.send(b"".join(packet(b"\x01x", (number + i) % 256) for i in range(4096)))
                number += 4096

        self.open_false(self.serve(rows), "prepare=select 1")
        self.assert_refused("more than 256 rows")

    def test_results_without_an_end(self):
        def results(c):
            number = 1
            while True:
                c.send(b"".join(ok((number + i) % 256, 0x000A) for i in range(4096)))
                number += 4096

        self.open_false(self.serve(results), "prepare=set @x = 1")
        self.assert_refused("more than 256")

    def test_row_that_is_too_long(self):
        def row(c):
            c.send(packet(b"\x01", 1) + packet(column(), 2) + packet(b"\xfe\0\0\2\0", 3))
            c.send(packet(b"\xfd\0\0\x40" + b"x" * 0x400000, 4))

        self.open_false(self.serve(row), "prepare=select 1")
        self.assert_refused("MOOR_ERESET", "prepare_sql")  # far below packet-max

    def test_stalls(self):
        def rows(c):
            c.send(packet(b"\x01", 1) + packet(column(), 2) + packet(b"\xfe\0\0\2\0", 3) + packet(b"\x01x", 4))

        for name, answer in (("at once", lambda c: None), ("among the rows", rows),
                             ("before the next result", lambda c: c.send(ok(1, 0x000A)))):
            with self.subTest(name):
                self.open_false(self.serve(answer), "prepare=select 1", "connect_timeout_ms=300")
                self.assert_refused("TIMEDOUT")
                self.close_pool()

    def test_garbage(self):
        self.open_false(self.serve(lambda c: c.send(packet(b"\x05ab", 1) + packet(b"nonsense", 2))),
                        "prepare=select 1")
        self.assert_refused("prepare_sql")


class IdleTest(FalseCase):
    """Logged in, and then."""

    def serve(self, answers):
        """`answers`: by command byte, what is done about it. Else OK."""
        def script(c):
            c.log_in()
            while body := c.read():
                answer = answers.get(body[0], lambda c: c.send(ok()))
                answer(c)
        return script

    def test_check_stalls(self):
        server = self.open_false(self.serve({0x0E: Client.stall}), "check_on_return=1")
        self.acquire("a", "f")
        self.release("a")
        wait_until(lambda: self.shell.stats("f", "conns_open") == 0, "given up")
        self.assertIn(b"\x01\0\0\0\x0e", server.heard())

    def test_check_fails(self):
        self.open_false(self.serve({0x0E: lambda c: c.send(error(1047, b"what?"))}), "check_on_return=1")
        self.acquire("a", "f")
        self.release("a")
        self.assertEqual(self.acquire("a", "f"), "new")
        self.release("a")

    def test_reset_fails(self):
        for name, answer in (("refused", lambda c: c.send(error(1047, b"Unknown command"))),
                             ("hangs up", lambda c: c.sock.shutdown(socket.SHUT_RDWR)),
                             ("garbage", lambda c: c.send(b"\xff" * 100))):
            with self.subTest(name):
                self.open_false(self.serve({0x1F: answer}), "reset=1")
                self.acquire("a", "f")
                self.release("a")
                self.assertEqual(self.acquire("a", "f"), "new")
                self.release("a", "discard")
                self.close_pool()

    def test_reset_stalls(self):
        self.open_false(self.serve({0x1F: Client.stall}), "conns_max=1", "reset=1")
        self.acquire("a", "f")
        self.release("a")
        self.assertEqual(self.acquire("a", "f"), "new")
        self.release("a", "discard")

    def test_says_that_it_shuts_down(self):
        """One connection hears it: all of them are replaced."""
        server = self.open_false(self.serve({}))
        self.acquire("a", "f")
        self.acquire("b", "f")
        self.release("a")
        self.release("b")
        wait_until(lambda: len(server.clients) == 2, "two")
        time.sleep(0.2)  # watched from now on
        server.clients[0].send(error(1053, b"Server shutdown in progress", 0))
        wait_until(lambda: self.shell.stats("f", "conns_open") == 0, "both are gone")

    def test_says_something_else(self):
        server = self.open_false(self.serve({}))
        for data in (error(1927, b"Connection was killed", 0), b"x", ok(0)):
            self.acquire("a", "f")
            self.acquire("b", "f")
            self.release("a")
            self.release("b")
            time.sleep(0.2)
            server.clients[-1].send(data)
            wait_until(lambda: self.shell.stats("f", "conns_open") == 1, "one is gone")

    def test_never_reads(self):
        """Nothing waits for a server to take a goodbye, nor a holder's discard."""
        def deaf(c):
            c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            c.log_in()
            time.sleep(20)

        self.open_false(deaf)
        self.acquire("a", "f")
        self.release("a", "discard")
        self.acquire("a", "f")
        self.release("a")
        self.close_pool()


if __name__ == "__main__":
    main(sys.modules["__main__"])
