#!/usr/bin/env python3
"""Passwords, and servers that do what sshd does not: ssh_false_server."""

import subprocess
import sys
import time
import unittest

from ssh_case import WAIT_S, SshCase, die_with_parent, fingerprint, is_listening, main, make_key, next_port, wait_until

SERVER = sys.argv[2] if len(sys.argv) > 2 else ""


class Case(SshCase):
    def serve(self, behaviour):
        self.key = make_key(self.root / "host")
        self.port = next_port()
        self.out = open(self.root / "out", "w+", encoding="ascii")
        self.addCleanup(self.out.close)
        process = subprocess.Popen([SERVER, self.key, str(self.port), behaviour], stdout=self.out,
                                   preexec_fn=die_with_parent)
        self.addCleanup(process.wait, WAIT_S)
        self.addCleanup(process.kill)
        wait_until(lambda: process.poll() is not None or is_listening(self.port), "the server")
        return self.url()

    def url(self, who="u:s3cret", more=""):
        pin = fingerprint(str(self.key) + ".pub").replace("+", "%2B")
        return f"ssh://{who}@127.0.0.1:{self.port}?agent=none&host_key_sha256={pin}{more}"


class Password(Case):
    def test_the_right_one(self):
        shell = self.shell(self.serve("echo"))
        got = shell.run("hello")
        self.assertEqual((got["err"], got.get("out"), got.get("status")), ("MOOR_OK", "hello", 42), got)

    def test_a_wrong_one(self):
        self.serve("echo")
        got = self.shell(self.url("u:hush-hush")).lease(timeout=3000)
        self.assertEqual(got["connect_err"], "MOOR_EAUTH")
        self.assertIn("password refused; it takes publickey,password", got["connect_text"])
        self.assertNotIn("hush", str(got))
        got = self.shell(self.url("u")).lease(timeout=3000)
        self.assertEqual(got["connect_err"], "MOOR_EAUTH")

    def test_a_key_and_a_password(self):
        self.serve("partial")
        key = make_key(self.root / "user")
        shell = self.shell(self.url(more=f"&identity={key}&auth=key,password"))
        self.assertEqual(shell.run("both").get("out"), "both")
        got = self.shell(self.url(more=f"&identity={key}&auth=key")).lease(timeout=3000)
        self.assertIn("accepted, not enough", got["connect_text"])


class Channels(Case):
    def test_no_exit_status(self):
        got = self.shell(self.serve("no-status")).run("x")
        self.assertEqual((got["err"], got["status"], got["signal"], got["out"]), ("MOOR_OK", -1, "", "x"))

    def test_a_signal_with_a_long_name(self):
        got = self.shell(self.serve("long-signal")).run("x")
        self.assertEqual((got["err"], got["status"], got["signal"]), ("MOOR_OK", -1, "X" * 31))

    def test_exec_is_refused(self):
        shell = self.shell(self.serve("refuse-exec"))
        for _ in range(3):
            got = shell.run("x")
            self.assertEqual(got["err"], "MOOR_EPROTO", got)
        self.assertEqual(shell.storm(20, "x")["failed"], 20)

    def test_channels_are_refused(self):
        shell = self.shell(self.serve("refuse-channel"))
        got = shell.storm(20, "x")
        self.assertEqual((got["done"], got["failed"], got["retryable"]), (20, 20, 20), got)
        self.assertLessEqual(shell.stats()["created"], 4)

    def test_channels_that_stay(self):
        """The server closes nothing: commands end in time, and the session is closed in the end."""
        shell = self.shell(self.serve("no-close"), sessions_max=1, channels_max=3)
        got = shell.storm(9, "x", timeout=300)
        self.assertEqual((got["done"], got["failed"]), (9, 9))
        self.assertIn("MOOR_ETIMEDOUT", got["first_error"])
        wait_until(lambda: shell.stats()["leased"] == 0, "the session to go")
        self.assertEqual(shell.run("x", timeout=500)["err"], "MOOR_ETIMEDOUT")

    def test_it_asks_for_channels(self):
        """While idle and while commands run: refused, not stored."""
        shell = self.shell(self.serve("asks"))
        self.assertEqual(shell.run("x").get("out"), "x")
        time.sleep(1)
        self.assertEqual(shell.run("y").get("out"), "y")
        self.out.seek(0)
        said = self.out.read()
        self.assertGreater(said.count("refused"), 3)
        self.assertNotIn("opened", said)


if __name__ == "__main__":
    main()
