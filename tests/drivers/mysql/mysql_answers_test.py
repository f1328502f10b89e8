"""Servers that stall, lie, talk too much or go away once they have let us in."""

import socket
import sys
import tempfile
import time

from mysql_case import main, wait_until
from mysql_false import Client, FalseCase, column, error, ok, packet


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
