"""Servers that stall, lie or go away before they have let anybody in: the keeper serves others meanwhile, whoever
waits is told why in time, and nothing of what was begun stays behind (the shell's end checks for leaks).
"""

import signal
import sys
import time

from mysql_case import Certificates, Server, main, wait_until
from mysql_false import CAPABILITIES, TLS_BIT, Client, FalseCase, error, greeting, ok, packet


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


def answer_all(c):
    c.log_in()
    while c.read():
        c.send(ok())


class TlsTest(FalseCase):
    """The handshake is on a helper: a server that stalls there keeps nobody else waiting."""

    @classmethod
    def setUpClass(cls):
        cls.tls = Certificates()
        cls.addClassCleanup(cls.tls.close)
        cls.server = Server(*cls.tls.options())
        cls.addClassCleanup(cls.server.close)

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
        self.open_false(answer_all, name="q")
        self.acquire("a", "q", 5000)
        self.assertEqual(self.shell.query("a", "set @x = 1"), "")
        self.release()
        self.assertEqual(self.shell.stats("f", "dials"), 1)  # it stalls still

    def test_others_are_served_while_a_check_stalls(self):
        """And a reset, and the goodbye: with TLS a read of libmariadb's blocks as the descriptor does."""
        for option in ("check_on_return=1", "reset=1"):
            with self.subTest(option):
                self.open(self.server.url("ssl-mode=required"), option, "connect_timeout_ms=2000", "conns_max=2",
                          name="f")
                self.acquire("a", "f")
                self.acquire("b", "f")
                self.open_false(answer_all, name="q")
                self.server.process.send_signal(signal.SIGSTOP)
                try:
                    begun = time.monotonic()
                    self.release("a")
                    self.release("b", "discard")
                    self.acquire("c", "q", 1500)
                    self.assertEqual(self.shell.query("c", "set @x = 1"), "")
                    self.assertLess(time.monotonic() - begun, 1.5)
                    self.release("c")
                    self.close_pool()
                finally:
                    self.server.process.send_signal(signal.SIGCONT)
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


if __name__ == "__main__":
    main(sys.modules["__main__"])
