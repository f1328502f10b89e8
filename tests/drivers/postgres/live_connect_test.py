"""Connecting to a real server: TCP, socket, SCRAM, TLS with verified names, and what each refusal says.

    live_connect_test.py ACTOR POSTGRES
"""

import shutil
import subprocess

from live_case import SECRET, Case, main, quoted, wait_until


class Connect(Case):
    TLS = True
    MORE = "ssl = on"

    @classmethod
    def prepare_server(cls):
        """A root, and a server's certificate for db.test signed by it."""
        def openssl(*words):
            subprocess.run(["openssl", *words], cwd=cls.root, check=True, capture_output=True)

        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30",
                "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Test root")
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=db.test")
        (cls.root / "names").write_text("subjectAltName=DNS:db.test\n")
        openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", "30", "-extfile", "names", "-out", "server.crt")
        for name in ("server.key", "server.crt"):
            cls.server.write(name, (cls.root / name).read_text())
        (cls.root / "hosts").write_text("127.0.0.1 db.test other.test\n")
        cls.environment = {"MOORING_HOSTS_FILE": str(cls.root / "hosts")}
        cls.ca = quoted(str(cls.root / "ca.pem"))

    def fails(self, url, error, *texts):
        self.actor.open(url)
        answer = self.actor.ask("acquire", "a", 400)
        self.assertEqual(answer[0], "fail", answer)
        self.assertEqual(answer[2], error, answer)
        for text in texts:
            self.assertIn(text, answer[3])
            self.assertIn(text, answer[4])
        self.assertNotIn(SECRET, " ".join(answer))
        self.actor.must("close")

    def test_tcp_with_tls_and_a_password(self):
        self.actor.open(self.server.url())
        pid = self.actor.acquire()
        self.assertEqual(self.actor.value("select pg_backend_pid()"), str(pid))
        self.assertEqual(self.actor.value("select ssl from pg_stat_ssl where pid = pg_backend_pid()"), "t")
        self.assertEqual(self.actor.value("select current_user || ' ' || current_database()"), "app postgres")
        self.assertEqual(self.actor.value("show application_name"), "mooring")
        self.actor.release()
        self.assertEqual(self.actor.acquire(), pid)  # the same one again
        self.actor.release()

    def test_a_verified_name(self):
        self.actor.open(self.server.url("db.test", query=f"sslmode=verify-full&sslrootcert={self.ca}"))
        self.actor.acquire()
        self.assertEqual(self.actor.value("select ssl from pg_stat_ssl where pid = pg_backend_pid()"), "t")
        self.actor.release()

    def test_a_name_that_is_not_the_certificates(self):
        self.fails(self.server.url("other.test", query=f"sslmode=verify-full&sslrootcert={self.ca}"),
                   "MOOR_ETLS", "other.test")

    def test_a_root_that_did_not_sign(self):
        shutil.copy(self.root / "ca.pem", self.root / "another.pem")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                        "-nodes", "-days", "30", "-keyout", "x.key", "-out", "another.pem", "-subj", "/CN=Another"],
                       cwd=self.root, check=True, capture_output=True)
        self.fails(self.server.url("db.test", query="sslmode=verify-ca&sslrootcert="
                                   + quoted(str(self.root / "another.pem"))), "MOOR_ETLS", "certificate verify failed")

    def test_a_root_file_that_is_missing(self):
        self.fails(self.server.url("db.test", query="sslmode=verify-full&sslrootcert=%2Fno%2Fsuch.pem"),
                   "MOOR_ETLS", "/no/such.pem")

    def test_a_server_that_wants_tls(self):
        self.fails(self.server.url(query="sslmode=disable"), "MOOR_EAUTH", "no pg_hba.conf entry", "28000")

    def test_a_wrong_password(self):
        self.fails(self.server.url(password="not it"), "MOOR_EAUTH", "28P01", "password authentication failed")
        self.fails(self.server.url(password=None), "MOOR_EAUTH", "no password supplied")

    def test_a_database_that_is_not_there(self):
        self.fails(self.server.url(database="atlantis"), "MOOR_ECONNECT", "3D000", 'database "atlantis" does not exist')

    def test_nobody_listens(self):
        self.fails(self.server.url("127.0.0.9"), "MOOR_ECONNECT", "refused")

    def test_the_socket_by_its_directory(self):
        directory = quoted(str(self.server.root))
        self.actor.open(f"postgres://app:{quoted(SECRET)}@{directory}:{self.port}/postgres")
        self.actor.acquire()
        self.assertIsNone(self.actor.value("select inet_server_addr()") or None)
        self.actor.release()

    def test_a_wrong_password_on_the_socket(self):
        directory = quoted(str(self.server.root))
        self.fails(f"postgres://app:wrong@{directory}:{self.port}/postgres", "MOOR_EAUTH", "28P01")

    def test_a_backend_killed_while_idle_over_tls(self):
        self.actor.open(self.server.url())
        before = self.actor.acquire()
        self.actor.release()
        self.server.sql(f"select pg_terminate_backend({before}, 5000)")
        wait_until(lambda: self.actor.events()["CONN_CLOSED"] == 1, "the end of the connection")
        self.assertNotEqual(self.actor.acquire(), before)
        self.actor.release("a", "dirty")
        self.actor.acquire()
        self.assertEqual(self.actor.value("select 1"), "1")
        self.actor.release()

    def test_set_up_statements(self):
        self.actor.open(self.server.url(), prepare_sql="set timezone = 'Asia/Tokyo'; prepare one as select 1")
        self.actor.acquire()
        self.assertEqual(self.actor.value("show timezone"), "Asia/Tokyo")
        self.assertEqual(self.actor.value("execute one"), "1")
        self.actor.release()

    def test_set_up_that_fails(self):
        self.actor.open(self.server.url(), prepare_sql="set no.such = 1; select nowhere()")
        answer = self.actor.ask("acquire", "a", 400)
        self.assertEqual(answer[0], "fail")
        self.assertIn("prepare_sql: 42883 function nowhere() does not exist", answer[3])

    def test_keywords_reach_the_server(self):
        self.actor.open(self.server.url(query="application_name=till%207&options=-c%20statement_timeout%3D1234"))
        self.actor.acquire()
        self.assertEqual(self.actor.value("show application_name"), "till 7")
        self.assertEqual(self.actor.value("show statement_timeout"), "1234ms")
        self.actor.release()

    def test_a_bad_url_is_told_at_once(self):
        answer = self.actor.ask("open", self.server.url(query="sslmod=disable"))
        self.assertEqual(answer[:2], ["err", "MOOR_EINVAL"])
        self.assertIn('"sslmod"', answer[2])
        self.assertNotIn(SECRET, answer[2])

    def test_no_secret_is_shown(self):
        self.actor.open(self.server.url())
        self.actor.acquire()
        for text in (self.actor.ask("snapshot")[0], self.actor.ask("log")[0]):
            self.assertNotIn(SECRET, text)
            self.assertNotIn(quoted(SECRET), text)
        self.actor.release()

    def test_the_server_runs_unprivileged(self):
        self.assertNotEqual((self.server.data / "postmaster.pid").stat().st_uid, 0)


if __name__ == "__main__":
    main()
