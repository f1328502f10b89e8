"""What one holder leaves on a connection, and what the next one finds, on a real server.

    live_session_test.py ACTOR POSTGRES
"""

from live_case import Case, main, wait_until


class Session(Case):
    environment = {"MOORING_CONNS_MAX": "1"}  # so that the next holder meets what the last one left

    def soil(self):
        """Everything that DISCARD ALL undoes."""
        self.actor.value("set work_mem = '1234kB'")
        self.actor.value("create temp table left_over (x int)")
        self.actor.value("select pg_advisory_lock(4711)")
        self.actor.value("prepare mine as select 1")
        self.actor.value("declare left_open cursor with hold for select 1")
        self.actor.value("listen gossip")

    def soiled(self):
        """What of it is still there."""
        rows = {
            "setting": "select current_setting('work_mem') = '1234kB'",
            "table": "select to_regclass('pg_temp.left_over') is not null",
            "lock": "select exists (select from pg_locks where locktype = 'advisory' and pid = pg_backend_pid())",
            "statement": "select exists (select from pg_prepared_statements)",
            "cursor": "select exists (select from pg_cursors where name = 'left_open')",
            "listen": "select exists (select from pg_listening_channels())",
        }
        return {what for what, sql in rows.items() if self.actor.value(sql) == "t"}

    ALL = {"setting", "table", "lock", "statement", "cursor", "listen"}

    def next_holder(self, how, **options):
        """What it finds, and whether it is on the same connection."""
        self.actor.open(self.server.url(), **options)
        before = self.actor.acquire()
        self.soil()
        self.assertEqual(self.soiled(), self.ALL)
        self.actor.release("a", how)
        after = self.actor.acquire()
        found = self.soiled()
        self.actor.release("a", "discard")
        self.actor.must("close")
        return found, before == after

    def test_marked_resets_what_is_dirty(self):
        self.assertEqual(self.next_holder("dirty", reset="marked"), (set(), True))

    def test_marked_believes_reuse(self):
        self.assertEqual(self.next_holder("reuse", reset="marked"), (self.ALL, True))

    def test_always_believes_nobody(self):
        self.assertEqual(self.next_holder("reuse", reset="always"), (set(), True))

    def test_never_closes_what_is_dirty(self):
        self.assertEqual(self.next_holder("dirty", reset="never"), (set(), False))
        self.assertEqual(self.next_holder("reuse", reset="never"), (self.ALL, True))

    def test_another_reset(self):
        found, is_same = self.next_holder("dirty", reset_sql="reset all; select pg_advisory_unlock_all()")
        self.assertEqual((found, is_same), (self.ALL - {"setting", "lock"}, True))

    def test_a_reset_that_fails_costs_the_connection(self):
        self.assertEqual(self.next_holder("dirty", reset_sql="no such statement"), (set(), False))

    def test_set_up_is_done_again(self):
        self.actor.open(self.server.url(), prepare_sql="set timezone = 'Asia/Tokyo'")
        before = self.actor.acquire()
        self.actor.value("set timezone = 'UTC'")
        self.actor.release("a", "dirty")
        self.assertEqual(self.actor.acquire(), before)
        self.assertEqual(self.actor.value("show timezone"), "Asia/Tokyo")
        self.actor.release()

    def open_transaction(self, policy, fails):
        self.actor.open(self.server.url(), reset=policy)
        before = self.actor.acquire()
        self.actor.value("create table if not exists ledger (x int)")
        self.actor.value("begin")
        self.actor.value("insert into ledger values (1)")
        if fails:
            self.assertEqual(self.actor.ask("exec", "a", "select 1/0")[:2], ["error", "22012"])
        self.actor.release()
        self.assertEqual(self.actor.acquire(), before)
        self.assertEqual(self.actor.value("select count(*) from ledger"), "0")
        self.assertEqual(self.actor.value("select count(*) from pg_locks where locktype = 'transactionid'"), "0")
        self.actor.release()
        self.actor.must("close")

    def test_an_open_transaction_does_not_leak(self):
        for policy in ("marked", "always", "never"):
            for fails in (False, True):
                with self.subTest(policy=policy, fails=fails):
                    self.open_transaction(policy, fails)

    def leaves(self, *lines):
        self.actor.open(self.server.url())
        before = self.actor.acquire()
        for line in lines:
            self.actor.ask(*line)
        self.actor.release()
        self.assertNotEqual(self.actor.acquire(), before)
        self.assertEqual(self.actor.value("select 'mine'"), "mine")
        self.actor.release()
        self.actor.must("close")

    def test_results_nobody_read(self):
        self.leaves(("send", "a", "select 'not yours'"))
        self.leaves(("send", "a", "select generate_series(1, 100000)"))

    def test_a_statement_that_still_runs(self):
        self.leaves(("send", "a", "select pg_sleep(30)"))

    def test_a_copy_in_the_middle(self):
        self.leaves(("exec", "a", "copy (select generate_series(1, 100000)) to stdout"))
        self.leaves(("exec", "a", "create temp table t (x int)"), ("exec", "a", "copy t from stdin"))

    def test_parameters(self):
        self.actor.open(self.server.url())
        before = self.actor.acquire()
        bobby = "Robert'); drop table students;--"
        self.assertEqual(self.actor.ask("query", "a", 5000, "select $1::text", bobby), ["row", bobby])
        self.assertEqual(self.actor.ask("query", "a", 5000, "select $1::int + $2::int", "3", "4"), ["row", "7"])
        self.assertEqual(self.actor.ask("query", "a", 5000, "select 1/$1::int", "0")[:2], ["error", "22012"])
        self.assertEqual(self.actor.ask("query", "a", 50, "select pg_sleep($1::float)", "30"),
                         ["fail", "MOOR_ETIMEDOUT"])
        self.actor.release()
        self.assertNotEqual(self.actor.acquire(), before)
        self.actor.release()

    def test_a_backend_killed_while_idle(self):
        self.actor.open(self.server.url())
        before = self.actor.acquire()
        self.actor.release()
        self.server.sql(f"select pg_terminate_backend({before}, 5000)")
        # Watched after it lay idle a while: gone before anybody asks for it.
        wait_until(lambda: self.actor.events()["CONN_CLOSED"] == 1, "the end of the connection")
        self.assertNotEqual(self.actor.acquire(), before)
        self.assertEqual(self.actor.value("select 1"), "1")
        self.actor.release()

    def test_a_backend_killed_while_leased(self):
        self.actor.open(self.server.url())
        before = self.actor.acquire()
        self.server.sql(f"select pg_terminate_backend({before}, 5000)")
        self.assertEqual(self.actor.ask("exec", "a", "select 1")[0], "error")
        self.actor.release()
        self.assertNotEqual(self.actor.acquire(), before)
        self.assertEqual(self.actor.value("select 1"), "1")
        self.actor.release()

    def test_checks_find_and_leave_alone(self):
        self.actor.must("env", "MOORING_CHECK_EVERY_MS", "20")
        self.actor.must("env", "MOORING_CHECK_AFTER_MS", "10")
        self.actor.open(self.server.url())
        before = self.actor.acquire()
        self.actor.release()
        activity = f"select state_change from pg_stat_activity where pid = {before}"
        seen = self.server.sql(activity)
        wait_until(lambda: self.server.sql(activity) != seen, "a check")
        self.assertEqual(self.actor.acquire(), before)
        self.actor.release()

    def test_a_lease_held_too_long(self):
        self.actor.must("env", "MOORING_LEAK_AFTER_MS", "50")
        self.actor.open(self.server.url())
        self.actor.acquire()
        wait_until(lambda: self.actor.events()["LEASE_HELD"] == 1, "a report")
        answer = self.actor.ask("acquire", "b", 50)
        self.assertEqual(answer[:2], ["fail", "MOOR_ETIMEDOUT"])
        self.assertIn("actor.c:", answer[4])  # where it was acquired
        self.assertEqual(self.actor.events()["LEASE_RETURNED"], 0)
        self.actor.release()
        wait_until(lambda: self.actor.events()["LEASE_RETURNED"] == 1, "the second report")

    def test_notifications_wait_for_who_listens(self):
        self.actor.open(self.server.url())
        before = self.actor.acquire()
        self.actor.value("listen news")
        self.actor.release()
        self.server.sql("notify news, 'hello'")
        self.assertEqual(self.actor.acquire(), before)
        self.assertEqual(self.actor.value("select 1"), "1")
        self.actor.release()

    def test_a_flood_of_notifications_ends_the_connection(self):
        self.actor.open(self.server.url())
        before = self.actor.acquire()
        self.actor.value("listen news")
        self.actor.release()
        self.server.sql("select count(pg_notify('news', repeat('x', 7000) || n)) from generate_series(1, 100) n")
        wait_until(lambda: self.actor.events()["CONN_CLOSED"] == 1, "the end of the connection")
        self.assertNotEqual(self.actor.acquire(), before)
        self.actor.release()


if __name__ == "__main__":
    main()
