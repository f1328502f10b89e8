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
        self.assertGreater(seen["good"], 100, seen)
        return seen

    def works(self, count=200):
        """Until the server has answered as many questions more."""
        def asked():
            done = self.server.ask("show global status like 'Com_select'")
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

        seen = self.load(6000, crash)
        self.assertLessEqual(set(seen["errors"]), {"MOOR_ETIMEDOUT", "MOOR_ECONNECT", "MOOR_ERESET"}, seen)
        self.assertGreater(seen["broken"] + seen["refused"], 0, seen)
        self.assertLess(seen["last_bad"], seen["ms"], seen)
        self.assertLessEqual(self.server.connections(), 4)
        self.acquire()
        self.assertEqual(self.shell.query("a", "select 2"), "2;")
        self.release()

    def test_demoted_and_promoted(self):
        """The pool holds no connection of before the demotion once an error of it was reported."""
        self.open(self.server.url("ssl-mode=disabled"), *OPTIONS)

        def demote():
            self.works()
            self.server.sql("set global read_only = 1")
            wait_until(lambda: self.server.connections() <= 4, "bounded")
            self.server.sql("set global read_only = 0")
            self.works()

        seen = self.load(3000, demote, "insert into t values (1)")
        self.assertEqual(seen["refused"], 0, seen)
        if seen["broken"]:
            self.assertEqual(seen["last_code"], 1290, seen)
            self.assertGreater(self.shell.stats("p", "conns_created"), 4)

    def works_insert(self):
        pass

    def test_password_rotated(self):
        """Each connect asks for the password of now; no request fails when it changes."""
        self.server.sql("create user turn@'%' identified by 'first'; grant all on shop.* to turn@'%'")
        with tempfile.TemporaryDirectory() as root:
            secret = Path(root, "secret")
            secret.write_text("turn first")
            self.open(self.server.url("ssl-mode=disabled", user="nobody"), *OPTIONS, f"credentials={secret}")

            def rotate():
                for word in ("second", "third"):
                    self.works()
                    self.server.sql("set password for turn@'%' = password('" + word + "')")
                    new = Path(root, "new")
                    new.write_text("turn " + word)
                    new.replace(secret)
                    self.server.sql("select 1")
                    # New connections are needed from here on.
                    ids = self.server.sql("select group_concat(id) from information_schema.processlist "
                                          "where user = 'turn' and command = 'Sleep'")
                    for number in ids.split(",")[:1]:
                        if number.isdigit():
                            self.server.ask(f"kill {number}")

            seen = self.load(3000, rotate)
            self.assertEqual(seen["refused"], 0, seen)
            self.assertLessEqual(seen["broken"], 2, seen)  # those that were killed in use
            self.acquire()
            self.assertEqual(self.shell.query("a", "select current_user()"), "turn@%;")
            self.release("a", "discard")
            secret.write_text("turn wrong")
            wait_until(lambda: self.shell.stats("p", "conns_open") < 4, "one has gone")
            for var in "abcd":
                answer = self.shell("acquire", "p", var, 1000)
                if "MOOR_OK" not in answer:
                    self.assertIn("Access denied", answer)
                    break
            else:
                self.fail("nobody asked for the wrong password")
            for number, var in enumerate("abcd"):
                if var < chr(ord("a") + "abcd".index(var)):
                    continue
            self.release_all("abcd")
            self.assertNotIn("third", "\n".join(self.shell.said) + self.shell("snapshot", "p"))

    def release_all(self, variables):
        for var in variables:
            self.shell("release", var, "reuse")


if __name__ == "__main__":
    main(sys.modules["__main__"])
