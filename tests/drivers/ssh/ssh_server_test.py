#!/usr/bin/env python3
"""Sessions of a real sshd: keys, host keys, leases, checks, its end."""

import os
import time
import unittest

from ssh_case import SshCase, fingerprint, main, make_key, wait_until


class Login(SshCase):
    def test_a_key(self):
        shell = self.shell(self.sshd().url())
        self.assertEqual(shell.opened["err"], "MOOR_OK")
        got = shell.lease("echo $SSH_CONNECTION | wc -w")
        self.assertEqual((got["status"], got["out"], got["blocking"]), (0, "4\n", 1))
        self.assertFalse(got["reused"])
        self.assertEqual(got["nonblock"], 1)  # libssh makes the socket a blocking one, the driver undoes that
        self.assertTrue(shell.lease()["reused"])

    def test_a_key_with_a_passphrase(self):
        server = self.sshd()
        key = make_key(server.root / "locked", "open, se/same")
        (server.root / "authorized").write_text((server.root / "locked.pub").read_text())
        shell = self.shell(server.url(identity=str(key), password="open, se/same"))
        self.assertEqual(shell.lease("echo in")["out"], "in\n")

    def test_nobody_is_asked_for_a_passphrase(self):
        server = self.sshd()
        for form in ([], ["-m", "PEM"]):
            with self.subTest(form=form):
                key = make_key(server.root / f"locked{len(form)}", "secret", "ecdsa", *form)
                for password in "", "wrong":
                    shell = self.shell(server.url(identity=str(key), password=password), acquire_timeout_ms=3000)
                    got = shell.lease(timeout=3000)
                    self.assertNotEqual(got["err"], "MOOR_OK")
                    self.assertEqual(got["connect_err"], "MOOR_EAUTH")
                    self.assertIn("no key, or another passphrase", got["connect_text"])
                    self.assertNotIn("wrong", got["connect_text"].replace("wrong passphrase", ""))
                    self.end(shell)

    def test_a_key_the_server_does_not_know(self):
        server = self.sshd()
        key = make_key(server.root / "stranger")
        got = self.shell(server.url(identity=str(key))).lease(timeout=3000)
        self.assertEqual(got["connect_err"], "MOOR_EAUTH")
        self.assertIn("stranger refused", got["connect_text"])
        self.assertIn("it takes publickey", got["connect_text"])

    def test_the_second_identity(self):
        server = self.sshd()
        key = make_key(server.root / "stranger")
        shell = self.shell(server.url(identity=f"{server.root}/none,{key},{server.user_key}"))
        self.assertEqual(shell.lease()["err"], "MOOR_OK")

    def test_a_passphrase_is_not_sent_as_a_password(self):
        server = self.sshd(more="PasswordAuthentication yes")
        key = make_key(server.root / "stranger", "its passphrase")
        got = self.shell(server.url(identity=str(key), password="its passphrase")).lease(timeout=3000)
        self.assertIn("stranger refused", got["connect_text"])
        self.assertNotIn("password refused", got["connect_text"])
        self.assertNotIn("Failed password", server.log())
        got = self.shell(server.url(identity=str(key), password="x", auth="password")).lease(timeout=3000)
        self.assertIn("password refused", got["connect_text"])


class HostKey(SshCase):
    def refused(self, server, *words, **query):
        got = self.shell(server.url(**query)).lease(timeout=3000)
        self.assertNotEqual(got["err"], "MOOR_OK")
        self.assertEqual(got["connect_err"], "MOOR_EAUTH")
        for word in (fingerprint(server.root / "host.pub"), *words):
            self.assertIn(word, got["connect_text"])
        self.assertNotIn("Accepted", server.log())

    def test_unknown(self):
        server = self.sshd()
        empty = server.root / "empty"
        empty.write_text("")
        self.refused(server, "is not in", str(empty), known_hosts=str(empty))
        self.refused(server, "is not in", known_hosts=str(server.root / "missing"))
        self.assertFalse((server.root / "missing").exists())
        self.assertEqual(empty.read_text(), "")

    def test_changed(self):
        server = self.sshd()
        make_key(server.root / "old")
        server.know(server.root / "known_hosts", server.root / "old.pub")
        self.refused(server, "is not the one in")

    def test_another_kind_is_known(self):
        server = self.sshd()
        make_key(server.root / "old", "", "ecdsa")
        server.know(server.root / "known_hosts", server.root / "old.pub")
        got = self.shell(server.url()).lease(timeout=3000)
        self.assertNotEqual(got["err"], "MOOR_OK")
        self.assertNotIn("Accepted", server.log())

    def test_pins(self):
        server = self.sshd()
        pin = fingerprint(server.root / "host.pub")
        other = fingerprint(make_key(server.root / "other"))
        shell = self.shell(server.url(known_hosts=None, host_key_sha256=f"{other},{pin}"))
        self.assertEqual(shell.lease()["err"], "MOOR_OK")
        log = server.root / "log"
        log.write_text("")
        self.refused(server, "host_key_sha256", known_hosts=None, host_key_sha256=other)

    def test_the_off_switch_is_heard_of(self):
        server = self.sshd()
        shell = self.shell(server.url(known_hosts=None, insecure="1"))
        self.assertEqual(shell.lease()["err"], "MOOR_OK")
        self.assertIn("insecure", shell.stats()["log"])


class Options(SshCase):
    def test_what_opening_refuses(self):
        key = make_key(self.root / "key")
        for query, word in (("colour=red", "colour"), ("insecure=2", "insecure"), ("auth=agent,eyes", "eyes"),
                            ("host_key_sha256=abc", "43"), ("agent=relative", "agent"),
                            ("agent_timeout_ms=0", "agent_timeout_ms"), ("ciphers=rot13", "libssh"),
                            ("auth=key,key", "twice"), (f"identity={key}&identity={key}", "twice"),
                            ("known_hosts=/x&insecure=1", "contradicts")):
            with self.subTest(query=query):
                shell = self.shell(f"ssh://u@127.0.0.1:1?{query}")
                self.assertEqual(shell.opened["err"], "MOOR_EINVAL")
                self.assertIn(word, shell.opened["log"])
        self.assertEqual(self.shell("ssh://u@127.0.0.1:1/path").opened["err"], "MOOR_EINVAL")

    def test_configuration_files_are_not_read(self):
        server = self.sshd()
        home = self.root / "home"
        (home / ".ssh").mkdir(parents=True)
        (home / ".ssh" / "config").write_text(f"Host *\n  ProxyCommand touch {self.root}/ran\n  User nobody-else\n")
        shell = self.shell(server.url(), env={"HOME": str(home)})
        self.assertEqual(shell.lease()["err"], "MOOR_OK")
        self.assertFalse((self.root / "ran").exists())

    def test_algorithms(self):
        server = self.sshd()
        shell = self.shell(server.url(ciphers="aes128-ctr", macs="hmac-sha2-256", kex="curve25519-sha256"))
        self.assertEqual(shell.lease()["err"], "MOOR_OK")


class Life(SshCase):
    def test_threads_lease_in_turn(self):
        server = self.sshd()
        shell = self.shell(server.url(), conns_max=3)
        self.assertEqual(shell.ask("leases 6 10")["ok"], 60)
        stats = shell.stats()
        self.assertLessEqual(stats["created"], 3)
        self.assertEqual(stats["leased"], 0)
        self.assertEqual(server.log().count("Accepted publickey"), stats["created"])

    def test_dirty_and_discarded_sessions_close(self):
        shell = self.shell(self.sshd().url())
        for how in (1, 2):
            shell.lease(how=how)
            wait_until(lambda: shell.stats()["open"] == 0, "the session to close")

    def test_a_holder_that_disconnects(self):
        """libssh forgets the descriptor then: the driver closes it."""
        shell = self.shell(self.sshd().url())
        count = lambda: len(os.listdir(f"/proc/{shell.process.pid}/fd"))  # noqa: E731
        shell.ask("hangup")
        wait_until(lambda: shell.stats()["open"] == 0, "the session to close")
        before = count()
        for _ in range(5):
            self.assertEqual(shell.ask("hangup")["err"], "MOOR_OK")
        wait_until(lambda: shell.stats()["open"] == 0, "the session to close")
        self.assertEqual(count(), before)

    def test_descriptors_of_closed_sessions(self):
        server = self.sshd()
        shell = self.shell(server.url())
        count = lambda: len(os.listdir(f"/proc/{shell.process.pid}/fd"))  # noqa: E731
        shell.lease(how=1)
        wait_until(lambda: shell.stats()["open"] == 0, "the session to close")
        before = count()
        for _ in range(3):
            shell.lease(how=1)
            shell.lease()
            server.kill_sessions()
            wait_until(lambda: shell.lease()["status"] == 0, "another session")
            shell.lease(how=1)
        wait_until(lambda: shell.stats()["open"] == 0, "the sessions to close")
        self.assertEqual(count(), before)

    def test_killed_while_idle(self):
        server = self.sshd()
        shell = self.shell(server.url())
        self.assertEqual(shell.lease()["err"], "MOOR_OK")
        time.sleep(0.2)  # the pool watches what has lain idle for a while
        server.kill_sessions()
        wait_until(lambda: shell.stats()["open"] == 0, "the pool to notice")
        got = shell.lease("echo again")
        self.assertEqual((got["out"], got["reused"]), ("again\n", False))

    def test_checked_while_idle(self):
        """A stopped server answers no check: its session is given up, not handed out."""
        server = self.sshd()
        shell = self.shell(server.url(), check_every_ms=200, check_after_ms=100, connect_timeout_ms=2000)
        shell.lease()
        time.sleep(1)
        self.assertEqual(shell.stats()["open"], 1)
        self.assertTrue(shell.lease()["reused"])
        pids = server.sessions()
        for pid in pids:
            os.kill(pid, 19)
        try:
            wait_until(lambda: shell.stats()["open"] == 0, "the check to fail")
        finally:
            server.kill_sessions()

    def test_the_server_asks_too(self):
        """ClientAlive: unanswered, sshd would close; the idle session answers."""
        server = self.sshd(more="ClientAliveInterval 1\nClientAliveCountMax 2")
        shell = self.shell(server.url())
        shell.lease()
        time.sleep(4.5)
        self.assertTrue(shell.lease()["reused"])

    def test_goodbye(self):
        server = self.sshd()
        shell = self.shell(server.url())
        shell.lease()
        shell.close()
        wait_until(lambda: "Received disconnect" in server.log(), "a goodbye")

    def test_down_and_up(self):
        server = self.sshd()
        shell = self.shell(server.url())
        shell.lease()
        server.stop()
        got = shell.lease(timeout=1000)
        if got["err"] == "MOOR_OK":  # it was idle for too short a time to be watched
            self.assertEqual(got["status"], -1)
            got = shell.lease(timeout=1000)
        self.assertEqual(got["connect_err"], "MOOR_ECONNECT")
        server.start()
        wait_until(lambda: shell.lease("echo up").get("out") == "up\n", "a session of the new server")


if __name__ == "__main__":
    main()
