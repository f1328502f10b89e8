#!/usr/bin/env python3
"""The example driver, as a third party has it: built with cc against an installed tree, then run.

The server is this script's: a thread for each connection, which speaks the protocol of lines and notes
what it was asked. Which backend runs is MOORING_IO_BACKEND's affair.
"""

import os
import re
import socket
import subprocess
import threading
import unittest
from pathlib import Path

from link_test import CC, WithInstalled, output

ROOT = Path(__file__).resolve().parents[3]
SOURCE = ROOT / "examples" / "driver_line.c"
HOOKS = Path(__file__).resolve().with_name("driver_hooks.c")
LINES_MAX = 150
ANSWERS = {"HELLO": "OK\n", "PING": "PONG\n", "TIME": "12:00\n"}


def has_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


class LineServer:
    """Answers what it is asked; `answers` replaces some of them. None: not at all.
    A function is called with the connection and gives the answer."""

    def __init__(self, family=socket.AF_INET, **answers):
        self.answers = {**ANSWERS, **answers}
        self.lock = threading.Condition()
        self.conversations = []  # of each connection, what it asked
        self.clients = []
        self.open = self.open_max = 0
        self.listener = socket.create_server(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0),
                                             family=family)
        host, self.port = self.listener.getsockname()[:2]
        self.url = f"line://[{host}]:{self.port}" if ":" in host else f"line://{host}:{self.port}"
        self.accepter = threading.Thread(target=self.accept, daemon=True)
        self.accepter.start()

    def accept(self):
        try:
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self.serve, args=(client,), daemon=True).start()
        except OSError:
            return  # closed

    def serve(self, client):
        asked = []
        with self.lock:
            self.conversations.append(asked)
            self.clients.append(client)
            self.open += 1
            self.open_max = max(self.open_max, self.open)
        try:
            with client, client.makefile("r") as lines:
                for line in lines:
                    asked.append(line.strip())
                    if line == "BYE\n":
                        break
                    answer = self.answers[line.strip()]
                    if callable(answer):
                        answer = answer(client)
                    if answer is not None:
                        client.sendall(answer.encode())
        except OSError:
            pass  # the client is gone
        with self.lock:
            self.open -= 1
            self.clients.remove(client)
            self.lock.notify_all()

    def until_left(self, remaining=0):
        with self.lock:
            if not self.lock.wait_for(lambda: self.open == remaining, timeout=20):
                raise AssertionError(f"{self.open} connections are open, not {remaining}")

    def to_others(self, do):
        """An answer: `do` to every connection but the one that asks, given once they have ended."""
        def answer(client):
            with self.lock:
                for other in self.clients:
                    if other is not client:
                        do(other)
            self.until_left(1)
            return "TOLD\n"
        self.answers["TELL"] = answer

    def asked(self, what):
        with self.lock:
            return sum(asked.count(what) for asked in self.conversations)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class ExampleDriver(WithInstalled):
    @classmethod
    def setUpClass(cls):
        cls.maker = WithInstalled()
        cls.maker.setUp()
        cls.addClassCleanup(cls.maker.doCleanups)
        cls.maker.prefix = cls.maker.install()
        library = next(cls.maker.prefix.rglob("libmooring.so")).parent
        # What a third party has: installed headers, found by pkg-config, and a strict compiler.
        for source in SOURCE, HOOKS:
            output(CC, "-std=gnu17", "-Wall", "-Wextra", "-Wshadow", "-Werror", source,
                   *cls.maker.pkg_config("--cflags", "--libs"), "-pthread", f"-Wl,-rpath,{library}",
                   "-I", SOURCE.parent, "-o", cls.maker.directory / source.stem)

    def run_program(self, *arguments, program=SOURCE.stem, **environment):
        return subprocess.run([self.maker.directory / program, *arguments], text=True, check=False,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60,
                              env={**os.environ, "MOORING_SHARDS": "1", **environment})

    def hooks(self, server, case, **environment):
        done = self.run_program(server.url, case, program=HOOKS.stem, MOORING_CONNS_MIN_IDLE="0",
                                **environment)
        self.assertEqual(done.returncode, 0, done.stderr)
        server.until_left()
        return done.stderr

    def succeeds(self, url, **environment):
        done = self.run_program(url, **environment)
        self.assertEqual((done.returncode, done.stdout), (0, "200 answers\n"), done.stderr)

    def fails(self, url, expected, **environment):
        done = self.run_program(url, **environment)
        self.assertEqual((done.returncode, done.stdout), (1, "0 answers\n"), done.stderr)
        self.assertIn(expected, done.stderr)

    def test_it_is_short(self):
        text = SOURCE.read_text()
        driver = text[:text.index("/* ---- a program")]
        self.assertLess(driver.count("\n"), LINES_MAX)

    def test_the_guide_shows_a_part_of_it(self):
        shown = re.search(r"```c\n(.*?)```", (ROOT / "docs" / "drivers.md").read_text(), re.DOTALL)
        self.assertIn(shown.group(1), SOURCE.read_text())

    def test_two_threads_are_served(self):
        for family in (socket.AF_INET, socket.AF_INET6) if has_ipv6() else (socket.AF_INET,):
            with self.subTest(family), LineServer(family) as server:
                self.succeeds(server.url)
                server.until_left()
                self.assertEqual(server.asked("TIME"), 200)
                self.assertEqual(server.asked("HELLO"), len(server.conversations))
                for asked in server.conversations:
                    self.assertEqual(asked[:1], ["HELLO"])

    def test_one_connection_is_never_two_threads(self):
        with LineServer() as server:
            self.succeeds(server.url, MOORING_CONNS_MAX="1")
            self.assertEqual(server.open_max, 1)
            self.assertEqual(server.asked("TIME"), 200)

    def test_goodbye_is_said(self):
        with LineServer() as server:
            self.succeeds(server.url, MOORING_CONNS_MAX="1")
            server.until_left()
            self.assertEqual([asked[-1] for asked in server.conversations], ["BYE"])

    def test_checks(self):
        with LineServer() as server:
            self.succeeds(server.url, MOORING_CHECK_ON_RETURN="true", MOORING_CONNS_MAX="1")
            self.assertGreaterEqual(server.asked("PING"), 199)

    def test_a_check_that_fails_costs_the_connection_only(self):
        with LineServer(PING="PANG\n") as server:
            self.succeeds(server.url, MOORING_CHECK_ON_RETURN="true", MOORING_CONNS_MAX="2")
            self.assertEqual(server.asked("TIME"), 200)
            self.assertGreaterEqual(len(server.conversations), 100)

    def test_what_was_changed_is_reset(self):
        with LineServer() as server:
            self.hooks(server, "dirty", MOORING_CONNS_MAX="1")
            self.assertEqual(server.conversations, [["HELLO", "HELLO", "TIME", "BYE"]])

    def test_an_answer_never_reaches_the_next_holder(self):
        with LineServer(NAME="server\n") as server:
            self.hooks(server, "unanswered", MOORING_CONNS_MAX="1")
            self.assertEqual([asked[:2] for asked in server.conversations],
                             [["HELLO", "NAME"], ["HELLO", "TIME"]])

    def test_what_one_hears_concerns_all(self):
        with LineServer() as server:
            server.to_others(lambda other: other.sendall(b"GOING\n"))
            said = self.hooks(server, "going", MOORING_CONNS_MAX="2")
            self.assertIn("every connection is replaced", said)
            self.assertEqual(server.asked("HELLO"), 3)

    def test_an_idle_connection_that_ends_is_closed(self):
        with LineServer() as server:
            server.to_others(lambda other: other.shutdown(socket.SHUT_WR))
            self.hooks(server, "ended", MOORING_CONNS_MAX="2")
            self.assertEqual(server.asked("HELLO"), 2)

    def test_hostile_servers(self):
        for answer, expected in (("NO\n", "protocol"), ("OK\nOK\n", "peer"), ("x" * 200, "peer"),
                                 (None, "deadline")):
            with self.subTest(answer), LineServer(HELLO=answer) as server:
                patience = {} if answer else {"MOORING_CONNECT_TIMEOUT_MS": "300"}
                self.fails(server.url, expected, **patience)
                self.assertGreaterEqual(server.asked("HELLO"), 1)

    def test_nobody_there(self):
        with socket.socket() as taken:  # nobody else gets the port, and nobody listens
            taken.bind(("127.0.0.1", 0))
            self.fails(f"line://127.0.0.1:{taken.getsockname()[1]}", "could not connect")


if __name__ == "__main__":
    unittest.main()
