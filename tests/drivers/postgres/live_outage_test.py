"""A server killed and restarted under load, and a password rotated under load.

    live_outage_test.py ACTOR POSTGRES
"""

import json
import os
import signal
import time

from live_case import SECRET, Actor, Case, main, wait_until


class Outage(Case):
    DIALS_MAX = 3
    environment = {"MOORING_CONNS_MAX": "8", "MOORING_DIALS_MAX": str(DIALS_MAX), "MOORING_BACKOFF_MAX_MS": "200"}

    def acquire_soon(self):
        """While connects are spaced out, who asks may be told the last one's error at once."""
        wait_until(lambda: self.actor.ask("acquire", "a", 1000)[0] == "ok", "recovery")
        self.actor.release()

    def set_password(self, secret):
        self.server.sql(f"alter role app password '{secret.replace(chr(39), chr(39) * 2)}'")

    def tearDown(self):
        if self.server.process.poll() is not None:
            self.server.start()

    def load_through(self, kill):
        """Six threads on eight connections while the server goes and comes back."""
        self.actor.open(self.server.url())
        self.actor.must("load", 6, 300, 200)
        wait_until(lambda: self.actor.stats()["acquires"] > 200, "load")
        self.actor.must("mark", "down")
        kill()
        time.sleep(1.0)
        self.server.start(wait=False)
        self.server.wait()
        self.actor.must("mark", "up")
        acquires = self.actor.stats()["acquires"]
        wait_until(lambda: self.actor.stats()["acquires"] > acquires + 500, "recovery")
        answer = self.actor.ask("unload")
        got = json.loads(answer[0])
        print(f"{self.id()}: {answer[0]}; for example: {answer[1]}")
        self.assertGreater(got["fails"], 0)  # it was away for longer than the timeout
        self.assertEqual(got["outside"], 0)
        self.assertEqual(got["unexplained"], 0)
        self.assertEqual(got["late"], 0)
        self.assertLessEqual(got["dials_peak"], self.DIALS_MAX)
        self.assertLessEqual(got["open_peak"], 8)
        self.assertLess(got["first_ms"], 10000)
        self.actor.must("close")

    def test_killed_at_once(self):
        self.load_through(self.server.kill_all)

    def test_shut_down_with_last_words(self):
        self.load_through(lambda: self.server.stop(signal.SIGINT))

    def test_one_backend_crashes(self):
        """The server then throws out everybody, and takes nobody for a while: 57P02, 57P03."""
        self.actor.open(self.server.url())
        self.actor.must("load", 6, 5000, 200)
        wait_until(lambda: self.actor.stats()["acquires"] > 200, "load")
        pid = int(self.server.sql("select max(pid) from pg_stat_activity where usename = 'app'"))
        self.assertIn(pid, self.server.children())
        self.actor.must("mark", "down")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: "terminated by signal 9" in self.server.log(), "the crash")
        self.server.wait()
        self.actor.must("mark", "up")
        acquires = self.actor.stats()["acquires"]
        wait_until(lambda: self.actor.stats()["acquires"] > acquires + 500, "recovery")
        got = json.loads(self.actor.ask("unload")[0])
        self.assertGreater(got["broken"], 0)
        self.assertEqual((got["outside"], got["unexplained"], got["late"]), (0, 0, 0))
        self.assertLessEqual(got["dials_peak"], self.DIALS_MAX)
        self.actor.must("close")

    def test_starting_up_is_told(self):
        self.server.stop()
        self.actor.open(self.server.url())
        answer = self.actor.ask("acquire", "a", 300)
        self.assertEqual((answer[0], answer[2]), ("fail", "MOOR_ECONNECT"))
        self.assertIn("refused", answer[4])
        self.server.start()
        self.acquire_soon()

    def test_too_many_connections_are_told(self):
        self.actor.open(self.server.url())
        others = Actor(MOORING_CONNS_MAX="60", MOORING_DIALS_MAX="8")
        self.addCleanup(self.end_actor, others)
        others.open(self.server.url())
        held = 0
        while others.ask("acquire", f"h{held}", 500)[0] == "ok" and held < 60:
            held += 1
        self.assertGreater(held, 40)
        answer = self.actor.ask("acquire", "a", 300)
        self.assertEqual(answer[0], "fail")
        self.assertIn("53300", answer[4])
        for i in range(held):
            others.release(f"h{i}", "discard")
        self.acquire_soon()

    def test_a_password_rotated_under_load(self):
        """Each connect asks for the password; connections live for less than a second. A connect between the
        server's change and ours fails, and nobody but who asks then may be told.
        """
        self.addCleanup(self.set_password, SECRET)
        self.actor.must("password", SECRET)
        self.actor.open(self.server.url(password=None), lifetime=300)
        self.actor.must("load", 6, 5000, 500)
        for n in range(3):
            secret = f"rotated {n}"
            self.actor.must("mark", "down")
            self.set_password(secret)
            self.actor.must("password", secret)
            self.actor.must("mark", "up")
            created = self.actor.stats()["created"]
            wait_until(lambda: self.actor.stats()["created"] > created + 8, "new connections")
        answer = self.actor.ask("unload")
        got = json.loads(answer[0])
        print(f"{self.id()}: {answer[0]} {answer[1]}")
        self.assertEqual((got["outside"], got["unexplained"], got["broken"]), (0, 0, 0))
        self.assertGreater(got["ok"], got["fails"])
        snapshot = self.actor.ask("snapshot")[0]
        self.assertNotIn("rotated", snapshot)
        self.actor.must("close")
        # The old one is of no more use, the new one is.
        self.actor.must("password", SECRET)
        self.actor.open(self.server.url(password=None), lifetime=300)
        self.assertEqual(self.actor.ask("acquire", "a", 300)[2], "MOOR_EAUTH")
        self.set_password(SECRET)
        self.acquire_soon()


if __name__ == "__main__":
    main()
