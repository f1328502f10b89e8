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
LINES_MAX = 150
ANSWERS = {"HELLO": "OK\n", "PING": "PONG\n", "TIME": "12:00\n"}


class LineServer:
    """Answers what it is asked; `answers` replaces some of them. None: not at all."""

    def __init__(self, family=socket.AF_INET, **answers):
        self.answers = {**ANSWERS, **answers}
        self.lock = threading.Lock()
        self.conversations = []  # of each connection, what it asked
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
            self.open += 1
            self.open_max = max(self.open_max, self.open)
        try:
            with client, client.makefile("r") as lines:
                for line in lines:
                    asked.append(line.strip())
                    if line == "BYE\n":
                        break
                    answer = self.answers[line.strip()]
                    if answer is not None:
                        client.sendall(answer.encode())
        except OSError:
            pass  # the client is gone
        with self.lock:
            self.open -= 1

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
        cls.program = cls.maker.directory / "driver_line"
        # What a third party has: installed headers, found by pkg-config, and a strict compiler.
        output(CC, "-std=gnu17", "-Wall", "-Wextra", "-Wshadow", "-Werror", SOURCE,
               *cls.maker.pkg_config("--cflags", "--libs"), "-pthread", f"-Wl,-rpath,{library}",
               "-o", cls.program, cwd=cls.maker.directory)

    def run_program(self, url, **environment):
        return subprocess.run([self.program, url], text=True, check=False, timeout=60,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              env={**os.environ, "MOORING_RUNTIME_SHARDS": "1", **environment})

    def succeeds(self, url, **environment):
        done = self.run_program(url, **environment)
        self.assertEqual((done.returncode, done.stdout), (0, "200 answers, success\n"), done.stderr)

    def fails(self, server, expected):
        done = self.run_program(server.url, MOORING_ACQUIRE_TIMEOUT_MS="700",
                                MOORING_CONNECT_TIMEOUT_MS="400")
        self.assertEqual((done.returncode, done.stdout), (1, "0 answers, success\n"), done.stderr)
        self.assertIn(expected, done.stderr)

    def test_it_is_short(self):
        text = SOURCE.read_text()
        driver = text[:text.index("/* ---- a program")]
        self.assertLess(driver.count("\n"), LINES_MAX)

    def test_the_guide_shows_a_part_of_it(self):
        shown = re.search(r"```c\n(.*?)```", (ROOT / "docs" / "drivers.md").read_text(), re.DOTALL)
        self.assertIn(shown.group(1), SOURCE.read_text())

    def test_two_threads_are_served(self):
        for family in (socket.AF_INET, socket.AF_INET6):
            with self.subTest(family), LineServer(family) as server:
                self.succeeds(server.url)
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

    def test_hostile_servers(self):
        for answer, expected in (("NO\n", "protocol"), ("OK\nOK\n", "peer"), ("x" * 200, "peer"),
                                 (None, "deadline")):
            with self.subTest(answer), LineServer(HELLO=answer) as server:
                self.fails(server, expected)
                self.assertGreaterEqual(server.asked("HELLO"), 1)

    def test_nobody_there(self):
        with LineServer() as server:
            pass
        self.fails(server, "could not connect")


if __name__ == "__main__":
    unittest.main()
