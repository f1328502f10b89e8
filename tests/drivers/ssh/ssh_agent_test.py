#!/usr/bin/env python3
"""Logging in through an agent: a real one, and such as stall, lie or break off."""

import os
import socket
import struct
import subprocess
import threading
import time
import unittest

from ssh_case import WAIT_S, SshCase, die_with_parent, main, make_key, wait_until


class Agent:
    """ssh-agent in the foreground."""

    def __init__(self, path, *keys):
        self.path = str(path)
        # No pipe of ours: it is set-gid, so it does not die with us, and who waits for the pipe's end would wait.
        self.process = subprocess.Popen(["ssh-agent", "-D", "-a", self.path], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                        preexec_fn=die_with_parent)
        try:
            wait_until(self.answers, "the agent")
            for key in keys:
                self.run("-q", key, check=True)
        except BaseException:
            self.close()
            raise

    def run(self, *arguments, check=False):
        return subprocess.run(["ssh-add", *arguments], env={**os.environ, "SSH_AUTH_SOCK": self.path},
                              check=check, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL).returncode

    def answers(self):
        """Its socket is there before it listens; 1 is an agent without keys."""
        return os.path.exists(self.path) and self.run("-l") in (0, 1)

    def close(self):
        self.process.terminate()
        self.process.wait(WAIT_S)


class FalseAgent:
    """Calls serve(connection) for each connection, in a thread; without it, accepts none."""

    def __init__(self, path, serve=None, backlog=64):
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(self.path)
        self.socket.listen(backlog)
        self.serve, self.connections = serve, []
        if serve:
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


def read_request(connection):
    head = connection.recv(4, socket.MSG_WAITALL)
    return connection.recv(struct.unpack(">I", head)[0], socket.MSG_WAITALL) if len(head) == 4 else b""


class Case(SshCase):
    def agent(self, *keys):
        agent = Agent(self.root / f"agent{time.monotonic_ns()}", *keys)
        self.addCleanup(agent.close)
        return agent.path

    def false_agent(self, serve=None, backlog=64):
        agent = FalseAgent(self.root / f"false{time.monotonic_ns()}", serve, backlog)
        self.addCleanup(agent.close)
        return agent


class Real(Case):
    def test_its_key(self):
        server = self.sshd()
        shell = self.shell(server.url(agent=self.agent(server.user_key), identity=None))
        self.assertEqual(shell.lease("echo in").get("out"), "in\n")

    def test_of_the_environment(self):
        server = self.sshd()
        path = self.agent(server.user_key)
        shell = self.shell(server.url(agent=None, identity=None), env={"SSH_AUTH_SOCK": path})
        self.assertEqual(shell.lease("echo in").get("out"), "in\n")
        got = self.shell(server.url(agent="none", identity=None), env={"SSH_AUTH_SOCK": path}).lease(timeout=3000)
        self.assertEqual(got["connect_err"], "MOOR_EAUTH")

    def test_the_right_one_of_several(self):
        server = self.sshd()
        keys = [make_key(server.root / f"k{i}", "", kind) for i, kind in enumerate(("ed25519", "ecdsa", "rsa"))]
        (server.root / "authorized").write_text((server.root / "k2.pub").read_text())
        shell = self.shell(server.url(agent=self.agent(*keys), identity=None))
        self.assertEqual(shell.lease("echo in").get("out"), "in\n")

    def test_after_it_the_key_file(self):
        server = self.sshd()
        stranger = make_key(server.root / "stranger")
        for path in (self.agent(stranger), self.agent(), str(self.root / "nowhere")):
            with self.subTest(path=path):
                shell = self.shell(server.url(agent=path))
                self.assertEqual(shell.lease("echo in").get("out"), "in\n")
        got = self.shell(server.url(agent=self.agent(stranger), identity=str(self.root / "none"))).lease(timeout=3000)
        self.assertIn("agent refused", got["connect_text"])

    def test_a_locked_agent(self):
        server = self.sshd()
        path = self.agent(server.user_key)
        agent = socket.socket(socket.AF_UNIX)
        agent.connect(path)
        agent.sendall(struct.pack(">IBI", 5 + 6, 22, 6) + b"secret")  # SSH_AGENTC_LOCK
        self.assertEqual(read_request(agent), b"\x06")
        agent.close()
        shell = self.shell(server.url(agent=path))
        self.assertEqual(shell.lease("echo in").get("out"), "in\n")

    def test_many_sessions(self):
        server = self.sshd()
        shell = self.shell(server.url(agent=self.agent(server.user_key), identity=None), conns_max=8)
        self.assertEqual(shell.ask("leases 8 3")["ok"], 24)


class Stalled(Case):
    """What an agent does must be nobody else's trouble: the shard goes on, and so do other pools."""

    def setUp(self):
        super().setUp()
        self.stalls = threading.Event()  # set: stalls no more
        self.addCleanup(self.stalls.set)

    def stall(self, connection):
        self.stalls.wait()
        connection.close()

    def test_it_never_answers(self):
        server, other = self.sshd(), self.sshd("other")
        url = server.url(agent=self.false_agent(self.stall).path, identity=None, auth="agent", agent_timeout_ms=100_000)
        shell = self.shell(url, connect_timeout_ms=60_000)
        shell.send("& lease 60000 0 true")
        shell.beats(200)
        self.assertEqual(shell.ask_beside(f"other {other.url()}")["err"], "MOOR_OK")
        self.assertNotIn("lease", shell.beside)
        self.stalls.set()
        got = shell.answer_of("lease")
        self.assertEqual(got["connect_err"], "MOOR_EAUTH")
        self.assertIn("agent: closed", got["connect_text"])

    def test_the_connect_times_out(self):
        server = self.sshd()
        shell = self.shell(server.url(agent=self.false_agent(self.stall).path), connect_timeout_ms=500)
        got = shell.lease(timeout=20000)
        self.assertEqual(got["connect_err"], "MOOR_ETIMEDOUT")

    def test_it_times_out_itself(self):
        server = self.sshd()
        shell = self.shell(server.url(agent=self.false_agent(self.stall).path, agent_timeout_ms=200))
        self.assertEqual(shell.lease("echo in").get("out"), "in\n")  # by the key file
        got = self.shell(server.url(agent=self.false_agent(self.stall).path, agent_timeout_ms=200, auth="agent"))
        self.assertIn("agent: does not answer", got.lease()["connect_text"])

    def test_all_helpers_stay_free(self):
        """More dials than helpers, all at a stalled agent: a pool that needs helpers, too, connects."""
        server, other = self.sshd(), self.sshd("other")
        agent = self.false_agent(self.stall)
        shell = self.shell(server.url(agent=agent.path, identity=None, agent_timeout_ms=100_000),
                           connect_timeout_ms=100_000, conns_min_idle=8, dials_max=8)
        shell.lease(timeout=1)
        wait_until(lambda: len(agent.connections) >= 8, "eight dials at the agent")
        for _ in range(3):
            self.assertEqual(shell.ask(f"other {other.url()}")["err"], "MOOR_OK")
        self.stalls.set()

    def test_it_accepts_nobody(self):
        agent = self.false_agent(backlog=0)
        fill = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for s in fill:
            s.setblocking(False)
            s.connect_ex(agent.path)
        server = self.sshd()
        shell = self.shell(server.url(agent=agent.path, agent_timeout_ms=200))
        self.assertEqual(shell.lease("echo in").get("out"), "in\n")  # by the key file
        for s in fill:
            s.close()

    def test_it_stalls_when_it_is_to_sign(self):
        server, other = self.sshd(), self.sshd("other")
        real = self.agent(server.user_key)
        asked = threading.Event()

        def relay(connection):
            behind = socket.socket(socket.AF_UNIX)
            behind.connect(real)
            while request := read_request(connection):
                if request[0] == 13:  # SIGN_REQUEST
                    asked.set()
                    self.stalls.wait()
                behind.sendall(struct.pack(">I", len(request)) + request)
                answer = read_request(behind)
                connection.sendall(struct.pack(">I", len(answer)) + answer)

        shell = self.shell(server.url(agent=self.false_agent(relay).path, agent_timeout_ms=2000))
        shell.send("& lease 30000 0 echo in")
        self.assertTrue(asked.wait(WAIT_S))
        shell.beats(50)
        self.assertEqual(shell.ask_beside(f"other {other.url()}")["err"], "MOOR_OK")
        self.assertEqual(shell.answer_of("lease").get("out"), "in\n")  # by the key file, then


class Broken(Case):
    def answers(self, *pieces):
        def serve(connection):
            read_request(connection)
            for piece in pieces:
                connection.sendall(piece)
            connection.recv(1)
        return self.false_agent(serve).path

    def test_what_is_no_answer(self):
        server = self.sshd()
        keys = struct.pack(">IBI", 5, 12, 0x7fffffff)
        for name, pieces in {"closes": (), "huge": (b"\xff\xff\xff\xff",), "empty": (b"\0\0\0\0",),
                             "short": (b"\0\0\0\x01\x0c",), "failure": (b"\0\0\0\x01\x05",),
                             "a lie about the number": (keys,), "two": (keys, keys),
                             "too long": (struct.pack(">IB", 200_000, 12), b"\1" * 199_999)}.items():
            with self.subTest(name):
                shell = self.shell(server.url(agent=self.answers(*pieces), agent_timeout_ms=1000))
                self.assertEqual(shell.lease("echo in").get("out"), "in\n")

    def test_it_dies_in_between(self):
        """libssh writes to it without MSG_NOSIGNAL."""
        server = self.sshd()

        def serve(connection):
            read_request(connection)
            connection.sendall(struct.pack(">IBI", 5, 12, 1))

        shell = self.shell(server.url(agent=self.false_agent(serve).path))
        self.assertEqual(shell.lease("echo in").get("out"), "in\n")


if __name__ == "__main__":
    main()
