#!/usr/bin/env python3
"""Servers that are none, or stop in the middle: connects end in time, and the shard goes on meanwhile."""

import socket
import struct
import threading
import time
import unittest

from ssh_case import SshCase, main, next_port, wait_until

BANNER = b"SSH-2.0-Stalled_1.0\r\n"


class FalseServer:
    def __init__(self, serve):
        self.port = next_port()
        self.socket = socket.create_server(("127.0.0.1", self.port))
        self.serve, self.connections = serve, []
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self.one, args=(connection,), daemon=True).start()

    def one(self, connection):
        try:
            self.serve(connection)
        except OSError:
            pass

    def close(self):
        self.socket.close()
        for connection in self.connections:
            connection.close()


def kexinit():
    """A plausible first packet, after which nothing follows."""
    lists = [b"curve25519-sha256", b"ssh-ed25519", b"aes256-ctr", b"aes256-ctr", b"hmac-sha2-256", b"hmac-sha2-256",
             b"none", b"none", b"", b""]
    payload = b"\x14" + b"\0" * 16 + b"".join(struct.pack(">I", len(x)) + x for x in lists) + b"\0" * 5
    padding = 8 - (len(payload) + 5) % 8 + 8
    return struct.pack(">IB", len(payload) + 1 + padding, padding) + payload + b"\0" * padding


def drain(connection, seconds=30):
    connection.settimeout(seconds)
    while connection.recv(65536):
        pass


class Connect(SshCase):
    other = None

    def outcome(self, serve, timeout_ms=1500):
        server = FalseServer(serve)
        self.addCleanup(server.close)
        self.other = self.other or self.sshd("other")
        shell = self.shell(f"ssh://u@127.0.0.1:{server.port}?insecure=1&agent=none", connect_timeout_ms=timeout_ms)
        shell.send("& lease 30000 0 true")
        shell.beats(50)
        self.assertEqual(shell.ask_beside(f"other {self.other.url()}")["err"], "MOOR_OK")
        got = shell.answer_of("lease")
        self.assertNotEqual(got["err"], "MOOR_OK")
        return got

    def test_silence(self):
        self.assertEqual(self.outcome(drain)["connect_err"], "MOOR_ETIMEDOUT")

    def test_a_banner_and_silence(self):
        def serve(c):
            c.sendall(BANNER)
            drain(c)
        self.assertEqual(self.outcome(serve)["connect_err"], "MOOR_ETIMEDOUT")

    def test_half_a_banner(self):
        def serve(c):
            c.sendall(b"SSH-2.0-St")
            drain(c)
        self.assertEqual(self.outcome(serve)["connect_err"], "MOOR_ETIMEDOUT")

    def test_a_key_exchange_that_stops(self):
        def serve(c):
            c.sendall(BANNER + kexinit())
            drain(c)
        self.assertEqual(self.outcome(serve)["connect_err"], "MOOR_ETIMEDOUT")

    def test_nothing_is_read(self):
        def serve(c):
            c.sendall(BANNER + kexinit())
            time.sleep(10)
        self.assertEqual(self.outcome(serve)["connect_err"], "MOOR_ETIMEDOUT")

    def test_it_trickles(self):
        def serve(c):
            for byte in BANNER + kexinit():
                c.sendall(bytes([byte]))
                time.sleep(0.02)
            drain(c)
        self.assertEqual(self.outcome(serve)["connect_err"], "MOOR_ETIMEDOUT")

    def test_it_closes(self):
        def serve(c):
            c.recv(10)
            c.close()
        self.assertEqual(self.outcome(serve)["connect_err"], "MOOR_ERESET")

    def test_another_protocol(self):
        def serve(c):
            c.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            drain(c)
        got = self.outcome(serve)
        self.assertIn(got["connect_err"], ("MOOR_EPROTO", "MOOR_ETIMEDOUT"))

    def test_garbage(self):
        for garbage in (b"\xff" * 100_000, b"\0" * 100_000, bytes(range(256)) * 1000, b"line\n" * 50_000):
            for head in (b"", BANNER):
                with self.subTest(garbage=garbage[:8], head=head):
                    def serve(c, bytes_=head + garbage):
                        c.sendall(bytes_)
                        drain(c)
                    self.assertIn(self.outcome(serve)["connect_err"], ("MOOR_EPROTO", "MOOR_ETIMEDOUT", "MOOR_ERESET"))

    def test_an_endless_greeting(self):
        def serve(c):
            while True:
                c.sendall(b"a line that is no banner\r\n" * 1000)
        got = self.outcome(serve, 20_000)
        self.assertEqual(got["connect_err"], "MOOR_EPROTO")
        self.assertIn("before the login", got["connect_text"])


class Session(SshCase):
    def test_a_server_that_stops_reading(self):
        server = self.sshd()
        shell = self.shell(server.url(), sessions_max=1, keepalive_ms=60000)
        self.assertEqual(shell.run("true")["status"], 0)
        shell.send("& run 60000 30000000 20000000 sleep 1; cat")
        time.sleep(0.4)
        server.kill_sessions(19)
        shell.beats(200)
        server.kill_sessions(18)
        got = shell.answer_of("run")
        self.assertEqual((got["err"], got["out_len"]), ("MOOR_OK", 20_000_000), got["why"])

    def test_turns_under_load(self):
        server = self.sshd()
        shell = self.shell(server.url(), sessions_max=2)
        shell.ask("pulse")
        got = shell.storm(16, "head -c 5000000 /dev/zero", timeout=60000)
        self.assertEqual((got["failed"], got["bytes"]), (0, 80_000_000))
        self.assertGreater(shell.ask("pulse")["pulses"], 10)


if __name__ == "__main__":
    main()
