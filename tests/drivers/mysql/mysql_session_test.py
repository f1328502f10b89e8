"""Connections between their holders, on a real MariaDB: what reset takes away, what the handle tells by itself,
what errors mean, what happens while nobody has one.
"""

import sys

from mysql_case import Case, Server, main, wait_until

MARKED, ALWAYS, NEVER = "reset=0", "reset=1", "reset=2"


class SessionTest(Case):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--character-set-server=latin1", "--secure-file-priv=/tmp")
        cls.addClassCleanup(cls.server.close)
        cls.server.sql("create table shop.t (a int) engine=innodb; create user chief@'%' identified by 's3cret'; "
                       "grant all on *.* to chief@'%'")

    def open_(self, *options, query="", **more):
        self.open(self.server.url("ssl-mode=disabled" + query, **more), "conns_max=1", *options)

    def id(self, var="a"):
        return self.shell.query(var, "select connection_id()").rstrip(";")

    def value(self, sql, var="a"):
        return self.shell.query(var, sql)

    def next_holder(self, how="reuse"):
        """Returns and takes it again; True: it is the same connection."""
        before = self.shell.stats("p", "conns_created")
        self.release("a", how)
        self.acquire()
        return self.shell.stats("p", "conns_created") == before

    # ---- prepare ----

    def test_prepare(self):
        self.open_("prepare=set @who = 'us', time_zone = '+03:00'")
        self.acquire()
        self.assertEqual(self.value("select @who, @@time_zone"), "us|+03:00;")
        self.assertTrue(self.next_holder("dirty"))
        self.assertEqual(self.value("select @who, @@time_zone"), "us|+03:00;")
        self.release()

    def test_prepare_with_rows(self):
        self.open_("prepare=select seq, @n := seq from seq_1_to_200")
        self.acquire()
        self.assertEqual(self.value("select @n"), "200;")
        self.release()

    def test_prepare_with_too_many_rows(self):
        self.open_("prepare=select seq from seq_1_to_100000")
        self.assertIn("more than 256 rows", self.refused(timeout=1000))

    def test_prepare_with_several_results(self):
        self.open_("prepare=select 1; select 2; set @done = 3", query="&multi-statements=1")
        self.acquire()
        self.assertEqual(self.value("select @done"), "3;")
        self.release()

    def test_prepare_that_fails(self):
        self.open_("prepare=set @@no_such_variable = 1")
        why = self.refused(timeout=1000)
        self.assertIn("prepare_sql", why)
        self.assertIn("no_such_variable", why)
        self.assertEqual(self.shell.stats("p", "conns_open"), 0)

    # ---- reset ----

    def leave_everything(self):
        for sql in ("set @x = 5, session sql_mode = ''", "create temporary table mine (a int)",
                    "set names latin2", "use other", "set autocommit = 0", "insert into shop.t values (1)"):
            self.assertEqual(self.value(sql), "")
        self.assertEqual(self.value("select get_lock('ours', 0)"), "1;")
        self.assertEqual(self.shell("prepare", "a", "select ?"), "prepared")

    def assert_clean(self):
        self.assertEqual(self.value("select @x, database(), @@autocommit, @@character_set_client, "
                                    "@@collation_connection, @@sql_mode = ''"),
                         "NULL|shop|1|utf8mb4|utf8mb4_general_ci|0;")
        self.assertEqual(self.shell("charset", "a"), "utf8mb4")  # what libmariadb escapes for
        self.assertIn("error 1146", self.value("select * from mine"))
        self.assertEqual(self.value("select count(*) from t"), "0;")
        self.assertEqual(self.server.sql("select is_free_lock('ours')"), "1")

    def test_reset_takes_all_away(self):
        for policy, how in ((ALWAYS, "reuse"), (MARKED, "dirty"), (MARKED, "reuse")):
            with self.subTest(policy=policy, how=how):
                self.open_(policy)
                self.acquire()
                self.leave_everything()
                self.assertTrue(self.next_holder(how))
                self.assert_clean()
                self.release()
                self.assertEqual(self.shell("close", "p"), "MOOR_OK")

    def test_marked_sees_what_the_handle_tells(self):
        self.open_(MARKED)
        for sql in ("begin", "set autocommit = 0", "use other", "set names latin2"):
            with self.subTest(sql):
                self.acquire()
                self.value("set @x = 1")
                self.assertEqual(self.value(sql), "")
                self.assertTrue(self.next_holder())
                self.assertEqual(self.value("select @x"), "NULL;")
                self.release()
        with self.subTest("a statement left open"):
            self.acquire()
            self.value("set @x = 1")
            self.shell("prepare", "a", "select ?")
            self.assertTrue(self.next_holder())
            self.assertEqual(self.value("select @x"), "NULL;")
            self.release()

    def test_marked_leaves_alone_what_it_cannot_see(self):
        self.open_(MARKED)
        self.acquire()
        self.value("set @x = 1")
        self.assertTrue(self.next_holder())
        self.assertEqual(self.value("select @x"), "1;")
        self.release()

    def test_never(self):
        self.open_(NEVER)
        self.acquire()
        self.value("set @x = 1")
        self.assertTrue(self.next_holder())
        self.assertEqual(self.value("select @x"), "1;")
        self.assertFalse(self.next_holder("dirty"))
        self.value("begin")
        self.value("insert into t values (1)")
        self.assertFalse(self.next_holder())
        self.assertEqual(self.value("select count(*) from t"), "0;")
        self.release()

    def test_policy_of_the_url(self):
        self.open_(NEVER, query="&reset=always")
        self.acquire()
        self.value("set @x = 1")
        self.assertTrue(self.next_holder())
        self.assertEqual(self.value("select @x"), "NULL;")
        self.release()

    def test_no_way_back_to_no_database(self):
        self.open_(ALWAYS, database="")
        self.acquire()
        self.assertTrue(self.next_holder())
        self.value("use other")
        self.assertFalse(self.next_holder())
        self.assertEqual(self.value("select database()"), "NULL;")
        self.release()

    def test_results_left_unread(self):
        self.open_(MARKED)
        self.acquire()
        self.assertEqual(self.shell("leave", "a", "select 1"), "0")
        self.assertFalse(self.next_holder())
        self.assertEqual(self.value("select 2"), "2;")
        self.release()

    def test_questions_left_unanswered(self):
        """Their answers would be taken for the next holder's."""
        self.open_(MARKED)
        for command in ("send", "suspend"):
            with self.subTest(command):
                self.acquire()
                self.assertIn(self.shell(command, "a", "select sleep(0.2)"), ("0", "suspended"))
                self.assertFalse(self.next_holder())
                self.assertEqual(self.value("select 2"), "2;")
                self.release()

    def test_statement_closed(self):
        """Which has no answer to wait for."""
        self.open_(MARKED)
        self.acquire()
        self.assertEqual(self.shell("closed", "a", "select 1"), "closed")
        self.assertTrue(self.next_holder())
        self.release()

    def test_another_user(self):
        self.open_(ALWAYS)
        self.acquire()
        self.assertEqual(self.shell("become", "a", "chief", "s3cret"), "0")
        self.assertFalse(self.next_holder())
        self.assertEqual(self.value("select current_user()"), "app@%;")
        self.release()

    # ---- errors ----

    def test_read_only_flushes(self):
        """When it is reported; else when the handle comes back with that error."""
        for is_reported in (True, False):
            with self.subTest(is_reported=is_reported):
                self.open(self.server.url("ssl-mode=disabled"), "conns_max=3")
                for var in "abc":
                    self.acquire(var)
                self.release("b")
                self.server.sql("set global read_only = 1")
                try:
                    self.assertIn("error 1290", self.value("insert into t values (1)"))
                    if is_reported:
                        self.assertEqual(self.shell("report", "a"), "reported")
                        self.assertEqual(self.value("select 1"), "1;")
                    self.release("a")
                    self.assertEqual(self.shell.query("c", "select 1"), "1;")  # until it comes back
                    self.release("c")
                finally:
                    self.server.sql("set global read_only = 0")
                self.assertEqual(self.acquire("a"), "new")
                self.release("a")
                self.assertEqual(self.shell.stats("p", "conns_created"), 4)
                self.assertEqual(self.shell("close", "p"), "MOOR_OK")

    def test_another_option_that_prevents_a_statement(self):
        """1290 as well, and no failover."""
        self.open_(user="chief:s3cret")
        self.acquire()
        self.assertIn("error 1290", self.value("select 1 into outfile '/nowhere/at/all'"))
        self.shell("report", "a")
        self.assertTrue(self.next_holder())
        self.release()

    def test_errors_of_a_statement(self):
        self.open_()
        self.acquire()
        self.assertIn("error 1146", self.value("select * from nowhere"))
        self.shell("report", "a")
        self.assertTrue(self.next_holder())
        self.release()

    def test_killed_in_use(self):
        self.open_()
        self.acquire()
        self.server.sql(f"kill {self.id()}")
        self.assertRegex(self.value("select 1"), "error (2013|2006|1927)")
        self.shell("report", "a")
        self.assertFalse(self.next_holder())
        self.assertEqual(self.value("select 1"), "1;")
        self.release()

    # ---- idle ----

    def test_killed_while_idle(self):
        self.open_()
        self.acquire()
        victim = self.id()
        self.release()
        self.server.sql(f"kill {victim}")
        wait_until(lambda: self.shell.stats("p", "conns_open") == 0, "the death is seen")
        self.acquire()
        self.assertNotEqual(self.id(), victim)
        self.release()

    def test_wait_timeout(self):
        self.open_("prepare=set wait_timeout = 1")
        self.acquire()
        self.release()
        wait_until(lambda: self.shell.stats("p", "conns_open") == 0, "the death is seen")
        self.acquire()
        self.release()

    def test_checked(self):
        self.open_("check_on_return=1", MARKED)
        self.acquire()
        pings = int(self.server.sql("show global status like 'Com_admin_commands'").split()[1])
        for _ in range(3):
            self.assertTrue(self.next_holder())
        after = int(self.server.sql("show global status like 'Com_admin_commands'").split()[1])
        self.assertGreaterEqual(after - pings, 3)
        self.release()

    def test_goodbye(self):
        """The server is told, and does not count connections that were lost."""
        lost = self.server.sql("show global status like 'Aborted_clients'")
        self.open(self.server.url("ssl-mode=disabled"), "conns_max=5")
        self.assertEqual(self.shell("warm", "p", 5), "MOOR_OK")
        self.assertEqual(self.server.connections(), 5)
        self.assertEqual(self.shell("close", "p"), "MOOR_OK")
        wait_until(lambda: self.server.connections() == 0, "they are gone")
        self.assertEqual(self.server.sql("show global status like 'Aborted_clients'"), lost)


if __name__ == "__main__":
    main(sys.modules["__main__"])
