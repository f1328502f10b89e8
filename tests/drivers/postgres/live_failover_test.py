"""A standby promoted while the pool works, and primaries that become read-only.

    live_failover_test.py ACTOR POSTGRES
"""

import shutil
import tempfile
import unittest
from pathlib import Path

from live_case import SECRET, Actor, Postgres, free_ports, main, wait_until


class Failover(unittest.TestCase):
    """db.test has two addresses on one port: 127.0.0.1 is the primary at first, 127.0.0.2 its standby."""

    def setUp(self):
        self.root = Path(tempfile.mkdtemp(prefix="mooring-pg-"))
        self.root.chmod(0o755)
        self.addCleanup(shutil.rmtree, self.root, ignore_errors=True)
        port, = free_ports(1)
        self.one = Postgres(self.root / "one", port)
        self.addCleanup(self.one.close)
        self.one.start()
        self.one.sql(f"create role app login password '{SECRET.replace(chr(39), chr(39) * 2)}'")
        self.one.sql("create table ledger (x int); grant all on ledger to app")
        (self.root / "hosts").write_text("127.0.0.1 db.test\n127.0.0.2 db.test\n")
        self.actor = Actor(MOORING_HOSTS_FILE=str(self.root / "hosts"), MOORING_CONNS_MAX="4",
                           MOORING_BACKOFF_MAX_MS="200")
        self.addCleanup(lambda: self.assertEqual(self.actor.close(), 0))

    def start_standby(self):
        self.two = Postgres(self.root / "two", self.one.port, address="127.0.0.2", base=self.one)
        self.addCleanup(self.two.close)
        self.two.start()

    def where(self, name="a"):
        return self.actor.value("select host(inet_server_addr())", name)

    def hold(self, count):
        for i in range(count):
            self.actor.acquire(f"h{i}")
        return [self.where(f"h{i}") for i in range(count)]

    def let_go(self, count):
        for i in range(count):
            self.actor.release(f"h{i}")

    def test_a_standby_is_promoted(self):
        self.start_standby()
        self.actor.open(self.one.url("db.test", query="target_session_attrs=read-write"))
        self.assertEqual(self.hold(4), ["127.0.0.1"] * 4)
        self.actor.value("insert into ledger values (1)", "h0")
        self.let_go(4)
        wait_until(lambda: self.two.sql("select count(*) from ledger") == "1", "replication")

        self.one.stop()  # says 57P01 to the idle ones
        self.two.run("pg_ctl", "promote", "-D", self.two.data, "-w")
        self.one.write("standby.signal", "")  # the old primary comes back, and takes no writes
        self.one.start()
        self.assertEqual(self.hold(4), ["127.0.0.2"] * 4)
        for i in range(4):
            self.assertEqual(self.actor.ask("exec", f"h{i}", "insert into ledger values (2)"), ["ok"])
        self.let_go(4)
        self.assertGreater(self.actor.events()["POOL_FLUSHED"], 0)

    def test_a_reader_wants_the_standby(self):
        self.start_standby()
        self.actor.must("env", "MOORING_CHECK_EVERY_MS", "100")
        self.actor.open(self.one.url("db.test", query="target_session_attrs=standby"))
        self.assertEqual(self.hold(2), ["127.0.0.2"] * 2)
        self.let_go(2)
        # Its connections live through the promotion, and are no longer what was asked for. A server tells its role
        # along with the next answer, here that to a check.
        self.two.run("pg_ctl", "promote", "-D", self.two.data, "-w")
        wait_until(lambda: self.actor.events()["CONN_CLOSED"] == 2, "the end of the connections")
        answer = self.actor.ask("acquire", "a", 300)
        self.assertEqual(answer[0], "fail", answer)
        self.assertIn("standby", answer[3])

    def test_only_standbys_are_left(self):
        self.start_standby()
        self.one.stop()
        self.actor.open(self.one.url("db.test", query="target_session_attrs=primary"))
        answer = self.actor.ask("acquire", "a", 500)
        self.assertEqual((answer[0], answer[2]), ("fail", "MOOR_ECONNECT"))

    def read_only_is_reported(self, demote):
        """Four connections, of which one meets the error and is reported: none is used again."""
        self.actor.open(self.one.url())
        before = [self.actor.acquire(f"h{i}") for i in range(4)]
        self.let_go(4)
        demote()
        self.actor.acquire()
        answer = self.actor.ask("exec", "a", "insert into ledger values (3)")
        self.assertEqual(answer[:2], ["error", "25006"])
        self.actor.must("report", "a", "25006")
        self.actor.release()
        self.assertEqual(self.actor.events()["POOL_FLUSHED"], 1)
        after = [self.actor.acquire(f"h{i}") for i in range(4)]
        self.let_go(4)
        self.assertFalse(set(before) & set(after))

    def test_an_operator_makes_the_primary_read_only(self):
        def demote():
            self.one.sql("alter system set default_transaction_read_only = on")
            self.one.sql("select pg_reload_conf()")
            wait_until(lambda: self.one.sql("show default_transaction_read_only") == "on", "the reload")
        self.read_only_is_reported(demote)

    def test_a_holders_own_read_only_transaction_is_nobody_elses_matter(self):
        self.actor.open(self.one.url())
        before = self.actor.acquire()
        self.actor.value("begin read only")
        self.assertEqual(self.actor.ask("query", "a", 5000, "insert into ledger values (3)")[:2], ["error", "25006"])
        self.actor.release()
        self.assertEqual(self.actor.acquire(), before)
        self.assertEqual(self.actor.events()["POOL_FLUSHED"], 0)
        self.actor.release()

    def test_the_statement_with_parameters_reports_by_itself(self):
        self.start_standby()
        self.actor.open(self.two.url())
        self.actor.acquire("a")
        self.actor.acquire("b")
        self.assertEqual(self.actor.ask("query", "a", 5000, "insert into ledger values ($1)", "4")[:2],
                         ["error", "25006"])
        self.assertEqual(self.actor.events()["POOL_FLUSHED"], 1)
        self.actor.release("a")
        self.actor.release("b")


if __name__ == "__main__":
    main()
