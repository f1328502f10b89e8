"""Threads at work on a MariaDB that is killed, restarted, demoted or asks for another password meanwhile."""

import json
import sys
import tempfile
import threading
from pathlib import Path

from mysql_case import Case, Server, main, wait_until

THREADS, DIALS = 6, 2
OPTIONS = ("conns_max=4", f"dials_max={DIALS}", "acquire_timeout_ms=2000", "connect_timeout_ms=2000",
           "backoff_min_ms=20", "backoff_max_ms=200")


class LoadTest(Case):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.addClassCleanup(cls.server.close)
        cls.server.sql("create table shop.t (a int) engine=innodb")

    def load(self, ms, meanwhile, sql="select 1"):
        """What the threads saw; `meanwhile` runs beside them, the shell being busy."""
        answers, failed = [], []

        def run():
            try:
                answers.append(self.shell("load", "p", THREADS, ms, sql))
            except BaseException as e:  # noqa: B902 - told by the test's own thread
                failed.append(e)

        worker = threading.Thread(target=run)
        worker.start()
        try:
            meanwhile()
        finally:
            worker.join()
        self.assertFalse(failed)
        seen = json.loads(answers[0])
        self.assertEqual(seen["late"], 0, seen)
        self.assertLessEqual(seen["dials_most"], DIALS, seen)
        self.assertGreater(seen["good"], 100, seen)
        return seen

    def works(self, count=200, what="Com_select"):
        """Until the server has done so many more of them."""
        def asked():
            done = self.server.ask(f"show global status like '{what}'")
            return int(done.stdout.split()[1]) if done.returncode == 0 and done.stdout else None

        wait_until(lambda: asked() is not None, "it answers")
        begun = asked()
        wait_until(lambda: (asked() or 0) > begun + count, "work goes on")

    def test_killed_and_restarted(self):
        self.open(self.server.url("ssl-mode=disabled"), *OPTIONS)

        def crash():
            self.works()
            self.server.kill()
            self.server.start()
            self.works()

        seen = self.load(4500, crash)
        self.assertLessEqual(set(seen["errors"]), {"MOOR_ETIMEDOUT", "MOOR_ECONNECT", "MOOR_ERESET"}, seen)
        self.assertGreater(seen["broken"] + seen["refused"], 0, seen)
        self.assertLess(seen["last_bad"], seen["ms"], seen)
        self.assertLessEqual(self.server.connections(), 4)
        self.acquire()
        self.assertEqual(self.shell.query("a", "select 2"), "2;")
        self.release()

    def test_demoted_and_promoted(self):
        """The first error that a holder reports ends all connections of before."""
        self.open(self.server.url("ssl-mode=disabled"), *OPTIONS)

        def demote():
            self.works(what="Com_insert")
            self.server.sql("set global read_only = 1")
            wait_until(lambda: int(self.server.sql("show global status like 'Connections'").split()[1]) >
                       begun + 10, "others are dialled")
            self.server.sql("set global read_only = 0")
            self.works(what="Com_insert")

        begun = int(self.server.sql("show global status like 'Connections'").split()[1])
        seen = self.load(2500, demote, "insert into t values (1)")
        self.assertGreater(seen["broken"], 0, seen)
        self.assertEqual(seen["last_code"], 1290, seen)
        self.assertGreater(self.shell.stats("p", "conns_created"), 4)
        self.assertLessEqual(self.server.connections(), 4)

    def kill_one_of_turn(self):
        ids = self.server.sql("select id from information_schema.processlist where user = 'turn'").split()
        for number in ids[:1]:
            self.server.ask(f"kill {number}")

    def test_password_rotated(self):
        """Each connect asks for the password of now, so none is refused when it changes."""
        self.server.sql("create user turn@'%' identified by 'first'; grant all on shop.* to turn@'%'")
        with tempfile.TemporaryDirectory() as root:
            secret = Path(root, "secret")

            def write(word):
                Path(root, "new").write_text("turn " + word)
                Path(root, "new").replace(secret)

            def rotate():
                for word in ("second", "third"):
                    self.works()
                    self.server.sql(f"set password for turn@'%' = password('{word}')")
                    write(word)
                    self.kill_one_of_turn()  # another is needed

            write("first")
            self.open(self.server.url("ssl-mode=disabled", user="nobody"), *OPTIONS, f"credentials={secret}")
            seen = self.load(2500, rotate)
            self.assertEqual(seen["refused"], 0, seen)
            self.assertLessEqual(seen["broken"], 2, seen)  # those that were killed in use
            self.assertGreater(self.shell.stats("p", "conns_created"), 4)
            write("wrong")
            while self.server.sql("select 1 from information_schema.processlist where user = 'turn'"):
                self.kill_one_of_turn()
            wait_until(lambda: self.shell.stats("p", "conns_open") == 0, "all are gone")
            why = self.refused(timeout=1000)
            self.assertIn("Access denied for user 'turn'", why)
            said = "\n".join(self.shell.said) + self.shell("snapshot", "p") + why
            for word in ("first", "second", "third", "wrong"):
                self.assertNotIn(word, said)


if __name__ == "__main__":
    main(sys.modules["__main__"])
