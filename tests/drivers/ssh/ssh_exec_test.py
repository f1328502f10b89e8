#!/usr/bin/env python3
"""Commands multiplexed over sessions of a real sshd."""

import hashlib
import time
import unittest

from ssh_case import SshCase, main, wait_until


def fnv(data):
    h = 14695981039346656037
    for byte in data:
        h = ((h ^ byte) * 1099511628211) & (2 ** 64 - 1)
    return f"{h:x}"


def pattern(n):
    return bytes(i * 131 % 251 for i in range(n))


class One(SshCase):
    def setUp(self):
        super().setUp()
        self.server = self.sshd()
        self.sh = self.shell(self.server.url())

    def test_output_status_and_both_streams(self):
        got = self.sh.run("echo out; echo err >&2; exit 7")
        self.assertEqual((got["err"], got["status"], got["signal"]), ("MOOR_OK", 7, ""))
        self.assertEqual((got["out"], got["stderr"]), ("out\n", "err\n"))
        self.assertEqual(self.sh.run("true")["status"], 0)
        self.assertEqual(self.sh.run("exec nothing-of-this-name")["status"], 127)
        self.assertEqual(self.sh.stats()["created"], 1)

    def test_a_signal(self):
        got = self.sh.run("kill -KILL $$")
        self.assertEqual((got["err"], got["status"], got["signal"]), ("MOOR_OK", -1, "KILL"))

    def test_input_is_fed_and_ended(self):
        got = self.sh.run("cat", input_bytes=5)
        self.assertEqual(got["out_hash"], fnv(pattern(5)))
        self.assertEqual(self.sh.run("cat; echo end")["out"], "end\n")
        got = self.sh.run("cat", input_bytes=3_000_000)
        self.assertEqual((got["out_len"], got["out_hash"]), (3_000_000, fnv(pattern(3_000_000))))
        got = self.sh.run("md5sum | cut -c-32", input_bytes=3_000_000)
        self.assertEqual(got["out"].strip(), hashlib.md5(pattern(3_000_000)).hexdigest())

    def test_input_nobody_reads(self):
        got = self.sh.run("exit 3", input_bytes=5_000_000)
        self.assertEqual(got["status"], 3)
        self.assertEqual(self.sh.run("echo still")["out"], "still\n")

    def test_ten_megabytes_out(self):
        size = 10 << 20
        path = self.root / "big"
        data = (pattern(251 * 4) * (size // 1004 + 1))[:size]
        path.write_bytes(data)
        got = self.sh.run(f"cat {path}")
        self.assertEqual((got["out_len"], got["status"]), (size, 0))
        self.assertEqual(self.sh.run(f"cat {path} | tail -c 1000000")["out_hash"], fnv(data[-1000000:]))

    def test_too_much_output(self):
        got = self.sh.run("yes", output_max=100_000)
        self.assertEqual(got["err"], "MOOR_ETOOBIG")
        self.assertIn("output_max", got["why"])
        self.assertEqual(self.sh.run("head -c 1000 /dev/zero", output_max=1000)["err"], "MOOR_OK")
        self.assertEqual(self.sh.run("head -c 1001 /dev/zero", output_max=1000)["err"], "MOOR_ETOOBIG")
        self.assertEqual(self.sh.stats()["dials_failed"], 0)

    def test_a_timeout_ends_the_command_not_the_session(self):
        got = self.sh.run("echo $$; trap 'echo term > %s/term; exit' TERM; sleep 30 & wait" % self.root, timeout=500)
        self.assertEqual(got["err"], "MOOR_ETIMEDOUT")
        self.assertEqual(self.sh.run("echo next")["out"], "next\n")
        # Its process does not go on for ever: it was sent TERM, or hears that its pipes are gone.
        got = self.sh.run("sleep 0.2; echo x")
        self.assertEqual(got["out"], "x\n")

    def test_what_exec_refuses(self):
        self.assertEqual(self.sh.run("true", timeout=-7)["err"], "MOOR_EINVAL")
        self.assertEqual(self.sh.run("true " + "x" * 60_000)["err"], "MOOR_OK")

    def test_nothing_is_leased_while_nothing_runs(self):
        self.sh.run("true")
        wait_until(lambda: self.sh.stats()["leased"] == 0, "the session to go back")
        self.assertTrue(self.sh.lease()["reused"])


class Many(SshCase):
    def storm(self, more, count, command="echo 1234567", **options):
        server = self.sshd(more=more)
        shell = self.shell(server.url(), **options)
        got = shell.storm(count, command)
        self.assertEqual((got["done"], got["failed"], got["bad_status"]), (count, 0, 0), got["first_error"])
        return server, shell, got

    def test_over_few_sessions(self):
        _, shell, got = self.storm("MaxSessions 10", 200, sessions_max=2, channels_max=10)
        self.assertEqual(got["bytes"], 200 * 8)
        self.assertLessEqual(shell.stats()["created"], 2)

    def test_the_server_allows_two(self):
        server, shell, _ = self.storm("MaxSessions 2", 60, "sleep 0.02; echo 1234567", sessions_max=2, channels_max=10)
        self.assertLessEqual(shell.stats()["created"], 2)
        # Refusals taught it: not every command was refused first.
        self.assertLess(server.log().count("no more sessions"), 30)
        self.assertEqual(shell.stats()["dials_failed"], 0)

    def test_the_server_allows_none(self):
        server = self.sshd(more="MaxSessions 0")
        shell = self.shell(server.url(), sessions_max=2)
        got = shell.storm(40, "true")
        self.assertEqual((got["done"], got["failed"]), (40, 40))
        self.assertIn("MOOR_EPROTO", got["first_error"])
        self.assertIn("open failed", got["first_error"])
        self.assertLessEqual(server.log().count("Accepted publickey"), 3)

    def test_cancelled_at_every_point(self):
        server = self.sshd()
        shell = self.shell(server.url())
        got = shell.storm(100, "sleep 0.05", cancel_every=2)
        self.assertEqual((got["done"], got["failed"]), (100, 50))
        self.assertIn("MOOR_ECANCELED", got["first_error"])
        for timeout in range(0, 60, 3):
            got = shell.storm(20, "sleep 0.02; echo x", timeout=timeout)
            self.assertEqual(got["done"], 20)
        self.assertEqual(shell.run("echo still")["out"], "still\n")

    def test_timeouts_while_others_run(self):
        server = self.sshd()
        shell = self.shell(server.url(), sessions_max=1)
        shell.send("storm 6 1000 0 sleep 20")
        self.assertEqual(shell.answer()["failed"], 6)
        got = shell.storm(20, "echo x")
        self.assertEqual((got["done"], got["failed"]), (20, 0), got["first_error"])

    def test_more_than_may_wait(self):
        server = self.sshd()
        shell = self.shell(server.url(), commands_max=10)
        got = shell.storm(25, "true")
        self.assertEqual((got["done"], got["failed"]), (25, 15))
        self.assertIn("MOOR_EBUSY", got["first_error"])

    def test_sessions_go_back_to_the_pool_in_between(self):
        server = self.sshd()
        shell = self.shell(server.url(), sessions_max=1, conns_max=1, uses_max=2, hold_max_ms=100)
        got = shell.storm(100, "sleep 0.02")
        self.assertEqual((got["done"], got["failed"]), (100, 0), got["first_error"])
        self.assertGreater(shell.stats()["created"], 1)


    def test_a_lease_gets_its_turn_beside_commands(self):
        server = self.sshd()
        shell = self.shell(server.url(), sessions_max=1, conns_max=1)
        shell.send("& storm 400 60000 0 sleep 0.05")
        wait_until(lambda: "Starting session" in server.log(), "commands")
        shell.send("lease 60000 0 echo mine")
        first, then = shell.answer(), shell.answer()
        self.assertEqual((first.get("verb"), first.get("out")), ("lease", "mine\n"))
        self.assertEqual((then["done"], then["failed"]), (400, 0), then["first_error"])


class End(SshCase):
    def begun(self, command, **options):
        server = self.sshd()
        shell = self.shell(server.url(), **options)
        shell.send(f"& run 60000 1000 0 {command}")
        wait_until(lambda: "Starting session" in server.log(), "the command")
        return shell

    def test_what_runs_may_finish(self):
        shell = self.begun("sleep 0.5; echo done")
        self.assertEqual(shell.ask_beside("close 60000")["err"], "MOOR_OK")
        self.assertEqual(shell.answer_of("run").get("out"), "done\n")

    def test_what_runs_too_long_is_cancelled(self):
        shell = self.begun("sleep 60")
        self.assertEqual(shell.ask_beside("close 100")["err"], "MOOR_OK")
        got = shell.answer_of("run")
        self.assertEqual(got["err"], "MOOR_ECANCELED")
        self.assertIn("the multiplexer is closed", got["why"])

    def test_what_waits_is_cancelled(self):
        shell = self.begun("sleep 60", sessions_max=1, channels_max=1)
        shell.send("& run 60000 1000 0 true")
        time.sleep(0.5)  # it waits by now
        self.assertEqual(shell.ask_beside("close 0")["err"], "MOOR_OK")
        for _ in range(2):
            self.assertIn(shell.answer_of("run")["err"], ("MOOR_ECANCELED", "MOOR_ECLOSED"))

    def test_while_it_connects(self):
        """Nothing of the multiplexer's is left with the pool."""
        server = self.sshd()
        server.kill_sessions(19)
        server.process.send_signal(19)
        shell = self.shell(server.url())
        shell.send("& run 60000 1000 0 true")
        time.sleep(0.3)
        self.assertEqual(shell.ask_beside("close 0")["err"], "MOOR_OK")
        self.assertIn(shell.answer_of("run")["err"], ("MOOR_ECANCELED", "MOOR_ECLOSED"))
        server.process.send_signal(18)

    def test_on_a_shard_of_ones_own(self):
        server = self.sshd()
        shell = self.shell(server.url())
        got = shell.ask(f"adopted {server.url()} echo mine")
        self.assertEqual((got["err"], got.get("out")), ("MOOR_OK", "mine\n"))

    def test_wrong_threads(self):
        shell = self.shell(self.sshd().url())
        self.assertEqual(set(shell.ask("wrong").values()), {"MOOR_EWRONGTHREAD"})


class Loss(SshCase):
    def test_sessions_killed_under_load(self):
        server = self.sshd()
        shell = self.shell(server.url(), sessions_max=2)
        shell.send("storm 300 30000 0 sleep 0.1; echo 1234567")
        wait_until(lambda: "Starting session" in server.log(), "commands")
        time.sleep(0.3)
        server.kill_sessions()
        got = shell.answer()
        self.assertEqual(got["done"], 300)
        self.assertGreater(got["failed"], 0)
        self.assertLess(got["failed"], 60)
        self.assertIn("MOOR_ERESET", got["first_error"])
        self.assertEqual(shell.run("echo fine")["out"], "fine\n")

    def test_the_server_restarts_under_load(self):
        server = self.sshd()
        shell = self.shell(server.url(), sessions_max=2)
        shell.send("storm 200 30000 0 sleep 0.1; echo 1234567")
        wait_until(lambda: "Starting session" in server.log(), "commands")
        server.stop()
        got = shell.answer()
        self.assertEqual(got["done"], 200)
        self.assertGreater(got["failed"], 0)
        server.start()
        accepted = server.log().count("Accepted publickey")
        wait_until(lambda: shell.run("echo up").get("out") == "up\n", "a session of the new server")
        self.assertLessEqual(server.log().count("Accepted publickey") - accepted, 4)

    def test_a_server_that_stops_answering(self):
        server = self.sshd()
        shell = self.shell(server.url(), keepalive_ms=1500, sessions_max=1)
        # Silent for several times as long, yet alive.
        self.assertEqual(shell.run("sleep 5; echo done")["out"], "done\n")
        shell.send("run 60000 1000 0 echo begun; sleep 60")
        time.sleep(0.5)
        server.kill_sessions(19)
        try:
            got = shell.answer()
        finally:
            server.kill_sessions()
        self.assertEqual(got["err"], "MOOR_ERESET")
        self.assertIn("keepalive", got["why"])

    def test_no_server(self):
        server = self.sshd()
        shell = self.shell(server.url())
        server.stop()
        got = shell.run("true")
        self.assertEqual(got["err"], "MOOR_ECONNECT")
        self.assertLessEqual(shell.stats()["dials_failed"], 3)

    def test_no_login(self):
        server = self.sshd()
        (server.root / "authorized").write_text("")
        shell = self.shell(server.url(), acquire_timeout_ms=1500)
        got = shell.storm(20, "true")
        self.assertEqual(got["failed"], 20)
        self.assertIn("refused", got["first_error"])
        self.assertLess(server.log().count("Connection from"), 20)


if __name__ == "__main__":
    main()
