"""Connecting to a real MariaDB: TCP, Unix socket and TLS; who is refused, and with which words."""

import os
import resource
import sys
import tempfile
from pathlib import Path

import mysql_case
from mysql_case import Case, Certificates, Server, main, run, wait_until


class ConnectTest(Case):
    @classmethod
    def setUpClass(cls):
        cls.tls = Certificates()
        cls.addClassCleanup(cls.tls.close)
        cls.server = Server("--character-set-server=latin1", *cls.tls.options())
        cls.addClassCleanup(cls.server.close)
        cls.plain = Server("--skip-ssl")
        cls.addClassCleanup(cls.plain.close)

    def cipher(self, var="a"):
        return self.shell.query(var, "show session status like 'Ssl_cipher'").split("|")[1].rstrip(";")

    def test_tcp_without_tls(self):
        self.open(self.server.url("ssl-mode=disabled"))
        self.assertEqual(self.acquire(), "new")
        self.assertEqual(self.shell.query("a", "select current_user(), database(), @@character_set_client"),
                         "app@%|shop|utf8mb4;")
        self.assertEqual(self.cipher(), "")
        self.release()
        self.assertEqual(self.acquire(), "reused")
        self.release()

    def test_nothing_is_inherited(self):
        """By what the program executes."""
        for name, query in (("p", "ssl-mode=disabled"), ("q", "ssl-mode=required")):
            self.open(self.server.url(query), name=name)
            self.acquire(name, name)
        here = Path(f"/proc/{self.shell.process.pid}")
        sockets = [fd.name for fd in (here / "fd").iterdir() if os.readlink(fd).startswith("socket:")]
        self.assertEqual(len(sockets), 2)
        for fd in sockets:
            flags = (here / "fdinfo" / fd).read_text().split("flags:")[1].split()[0]
            self.assertTrue(int(flags, 8) & os.O_CLOEXEC, fd)
        self.release("p")
        self.release("q")

    def test_tls_if_there_is_some(self):
        self.open(self.server.url())
        self.acquire()
        self.assertNotEqual(self.cipher(), "")
        self.release()
        self.open(self.plain.url(), name="q")
        self.acquire("b", "q")
        self.assertEqual(self.cipher("b"), "")
        self.release("b")

    def test_tls_required_of_a_server_without(self):
        self.open(self.plain.url("ssl-mode=required"))
        why = self.refused()
        self.assertIn("MOOR_ETLS", why)
        self.assertIn("SSL is required", why)

    def test_tls_required(self):
        self.open(self.server.url("ssl-mode=required"))
        self.acquire()
        self.assertNotEqual(self.cipher(), "")
        self.release()

    def test_unix_socket(self):
        path = self.server.socket.replace("/", "%2F")
        self.open(f"mysql://app:s3cret@{path}/shop")
        self.acquire()
        self.assertEqual(self.shell.query("a", "select current_user()"), "app@localhost;")
        self.release()

    def test_unix_socket_with_tls(self):
        path = self.server.socket.replace("/", "%2F")
        self.open(f"mysql://app:s3cret@{path}/shop?ssl-mode=verify-ca&ssl-ca={self.tls.ca.path}")
        self.acquire()
        self.assertNotEqual(self.cipher(), "")
        self.release()

    def test_verify_ca(self):
        self.open(self.server.url(f"ssl-mode=verify-ca&ssl-ca={self.tls.ca.path}"))
        self.acquire()
        self.release()
        self.open(self.server.url(f"ssl-mode=verify-ca&ssl-ca={self.tls.other.path}"), name="q")
        self.assertIn("MOOR_ETLS", self.refused("q"))

    def test_verify_by_a_directory_of_roots(self):
        for ca, word in ((self.tls.ca, "MOOR_OK"), (self.tls.other, "MOOR_ETLS")):
            with self.subTest(word), tempfile.TemporaryDirectory() as roots:
                name = run("openssl", "x509", "-hash", "-noout", "-in", ca.path).decode().strip()
                Path(roots, name + ".0").write_text(ca.text())
                self.open(self.server.url(f"ssl-mode=verify-ca&ssl-capath={roots}"))
                self.assertIn(word, self.shell("acquire", "p", "a", 5000))
                if word == "MOOR_OK":
                    self.release()
                self.assertEqual(self.shell("close", "p"), "MOOR_OK")

    def test_verify_identity(self):
        """The pool dials the address that it has resolved; the certificate names the host."""
        query = f"ssl-mode=verify-identity&ssl-ca={self.tls.ca.path}"
        self.open(self.server.url(query, host="localhost"))
        self.acquire()
        self.assertNotEqual(self.cipher(), "")
        self.assertEqual(self.shell.query("a", "select 1"), "1;")
        self.release()
        self.open(self.server.url(query), name="q")
        self.assertIn("MOOR_ETLS", self.refused("q"))

    def test_verify_identity_by_the_systems_roots(self):
        self.open(self.server.url("ssl-mode=verify-identity", host="localhost"))
        self.assertIn("MOOR_ETLS", self.refused())

    def test_client_certificate(self):
        self.server.sql("create user only_tls@'%' require subject '/CN=app'; "
                        "grant all on shop.* to only_tls@'%'")
        query = f"ssl-mode=verify-ca&ssl-ca={self.tls.ca.path}"
        self.open(self.server.url(query, user="only_tls"))
        self.assertIn("MOOR_EAUTH", self.refused())
        cert = f"&ssl-cert={self.tls.client.path}&ssl-key={self.tls.client.key.path}"
        self.open(self.server.url(query + cert, user="only_tls"), name="q")
        self.acquire("b", "q")
        self.release("b")

    def test_checked_over_tls(self):
        self.open(self.server.url("ssl-mode=required"), "check_after_ms=0", "check_on_return=1", "reset=1",
                  "prepare=set @who = 'us'")
        for _ in range(5):
            self.acquire()
            self.assertEqual(self.shell.query("a", "select @who, repeat('x', 100000) like 'xx%'"), "us|1;")
            self.release()
        self.assertEqual(self.shell.stats("p", "conns_created"), 1)

    def test_one_that_breaks_leaves_the_others_alone(self):
        """OpenSSL keeps its errors per thread, and the keeper's thread is that of all of them."""
        self.open(self.server.url("ssl-mode=required"), "check_on_return=1", "conns_max=2")
        self.acquire("a")
        self.acquire("b")
        victim = self.shell.query("a", "select connection_id()").rstrip(";")
        self.server.sql(f"kill {victim}")
        self.release("a")  # its check fails
        wait_until(lambda: self.shell.stats("p", "conns_open") == 1, "it is closed")
        for _ in range(5):
            self.release("b")
            self.assertEqual(self.acquire("b"), "reused")
        self.release("b")
        self.assertEqual(self.shell.stats("p", "conns_created"), 2)

    def test_large_over_tls(self):
        """A holder's descriptor blocks, whatever the keeper did to it: libmariadb's TLS would hang else."""
        self.open(self.server.url("ssl-mode=required"), "reset=1")
        for _ in range(2):
            self.acquire()
            self.assertEqual(self.shell("big", "a", 9000000), "9000000;")
            self.assertEqual(self.shell.query("a", "select length(@x := repeat('x', 9000000))"), "9000000;")
            self.release()

    def test_wrong_password(self):
        self.open(self.server.url("ssl-mode=disabled", user="app:wrong"))
        why = self.refused()
        self.assertTrue(why.startswith("MOOR_EAUTH"), why)
        self.assertIn("Access denied for user 'app'", why)
        self.assertNotIn("wrong", why + str(self.shell.said))

    def test_no_user(self):
        self.open(f"mysql://127.0.0.1:{self.server.port}/shop")
        self.assertIn("MOOR_EAUTH", self.refused())

    def test_no_such_database(self):
        self.open(self.server.url("ssl-mode=disabled", database="nowhere"))
        self.assertIn("MOOR_EAUTH", self.refused())  # for app: it may not know

    def test_no_descriptor_left(self):
        for query in ("ssl-mode=disabled", "ssl-mode=required"):
            with self.subTest(query):
                self.restart()
                self.open(self.server.url(query), "conns_max=9")
                self.acquire()
                used = len(os.listdir(f"/proc/{self.shell.process.pid}/fd"))
                _, hard = resource.prlimit(self.shell.process.pid, resource.RLIMIT_NOFILE)
                resource.prlimit(self.shell.process.pid, resource.RLIMIT_NOFILE, (used, hard))
                self.assertIn("MOOR_ENOFILES", self.refused(timeout=500))
                resource.prlimit(self.shell.process.pid, resource.RLIMIT_NOFILE, (hard, hard))
                self.acquire("b")
                self.release("a")
                self.release("b")

    def test_nobody_there(self):
        port = mysql_case.free_ports(1)[0]
        self.open(f"mysql://app@127.0.0.1:{port}/shop", "acquire_timeout_ms=500")
        why = self.refused(timeout=500)
        self.assertIn("111", why)

    def test_too_many(self):
        self.server.sql("create user few@'%' identified by 's3cret' with max_user_connections 1; "
                        "grant all on shop.* to few@'%'")
        self.open(self.server.url("ssl-mode=disabled", user="few:s3cret"), "conns_max=2")
        self.acquire()
        self.assertIn("max_user_connections", self.refused(timeout=500))
        self.release()

    def test_ways_to_authenticate(self):
        self.server.sql("install soname 'auth_ed25519'")
        self.server.sql("create user ed@'%' identified via ed25519 using password('s3cret'); "
                        "grant all on shop.* to ed@'%'")
        self.open(self.server.url("ssl-mode=disabled", user="ed:s3cret"))
        self.acquire()
        self.release()
        self.open(self.server.url("ssl-mode=disabled&auth=mysql_native_password", user="ed:s3cret"), name="q")
        why = self.refused("q")
        self.assertIn("MOOR_EAUTH", why)
        self.assertIn("`auth` does not allow", why)

    def test_environment_and_option_files_are_not_asked(self):
        with tempfile.TemporaryDirectory() as home:
            Path(home, ".my.cnf").write_text("[client]\npassword=s3cret\nuser=app\n")
            self.restart(MYSQL_PWD="s3cret", HOME=home)
            self.open(self.server.url("ssl-mode=disabled", user="app"))
            self.assertIn("MOOR_EAUTH", self.refused())

    def test_urls_that_are_refused(self):
        bad = (("ssl-mode=maybe", "ssl-mode is one of disabled"),
               ("sslmode=required", "sslmode is not an option"),
               ("reset=always&reset=never", "reset is there twice"),
               ("ssl-ca=/nowhere", "ssl-ca: /nowhere: No such file"),
               ("ssl-mode=verify-ca", "needs ssl-ca"),
               ("ssl-mode=disabled&tls-version=TLSv1.3", "of no use without TLS"),
               ("tls-version=TLSv1.0", "tls-version is"),
               ("charset=klingon", "character set that libmariadb does not know"),
               ("packet-max=1", "packet-max is a number from"),
               ("packet-max=1x", "packet-max is a number from"),
               ("compress=perhaps", "compress is one of"),
               ("compress", "not option=value"),
               (f"ssl-cert={self.tls.client.path}", "go together"))
        for query, word in bad:
            with self.subTest(query):
                self.restart()  # what is logged is bounded
                self.assertEqual(self.shell("open", "p", self.server.url(query)), "MOOR_EINVAL")
                self.logged(word)
        path = self.server.socket.replace("/", "%2F")
        self.assertEqual(self.shell("open", "p", f"mysql://app@{path}/?ssl-mode=verify-identity"),
                         "MOOR_EINVAL")

    def test_options(self):
        self.open(self.server.url("ssl-mode=disabled&charset=latin2&found-rows=1&compress=1&read-timeout=20"
                                  "&write-timeout=20&packet-max=100000"))
        self.acquire()
        self.assertEqual(self.shell.query("a", "select @@character_set_client, length(repeat('x', 9))"),
                         "latin2|9;")
        self.assertIn("error 20", self.shell.query("a", "select repeat('x', 200000)"))
        self.release()
        self.acquire()
        self.assertIn("error 1064", self.shell.query("a", "select 1; select 2"))
        self.release()
        self.open(self.server.url("ssl-mode=disabled&multi-statements=true"), name="q")
        self.acquire("b", "q")
        self.assertEqual(self.shell.query("b", "select 1; select 2"), "1;")
        self.release("b")
        self.assertEqual(self.acquire("b", "q"), "new")  # the second result was left
        self.release("b")


if __name__ == "__main__":
    main(sys.modules["__main__"])
