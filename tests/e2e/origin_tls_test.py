#!/usr/bin/env python3
"""mooring-origin over TLS: every route of origin_test.py again, then what TLS adds.

Usage: origin_tls_test.py PATH-OF-MOORING-ORIGIN [unittest arguments]
"""

import json
import os
import socket
import ssl
import struct
import subprocess
import threading
import time
import unittest

import origin_test
from origin_test import ORIGIN, WAIT_S, Client, Origin, pattern
from tls_case import TlsClient, TlsSocket, path_of, s_client, self_signed, trust

# A test measures the server's memory: a sanitizer must not keep what is freed.
os.environ["ASAN_OPTIONS"] = os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=1"


class TlsTest(origin_test.OriginTest):
    options = ("--threads", "2")
    scheme = "https"
    settings = {}

    @classmethod
    def setUpClass(cls):
        cls.ca = path_of(cls.__name__ + ".pem")
        cls.origin = Origin("--tls", "--tls-ca-out", cls.ca, *cls.options)
        cls.context = trust(cls.ca, **cls.settings)

    def connect(self, **options):
        return TlsClient(self.origin.port, options.pop("context", self.context), **options)


class GoodRoutes(TlsTest, origin_test.GoodRoutes):
    pass


class Protocol(TlsTest, origin_test.Protocol):
    pass


class BadRoutes(TlsTest, origin_test.BadRoutes):
    def test_close_idle_meets_a_request(self):
        for notify in (0, 1):
            c = self.bad(f"close-idle?after=200&notify={notify}")
            self.assertEqual(c.read(len(self.ok)), self.ok)
            c.get("/bytes/1")
            if notify:
                self.assertEqual((c.s.recv(1), c.s.ended_by), (b"", "close_notify"))
            else:
                self.assert_reset(c, b"")


class GoodRoutesOverTls12(TlsTest, origin_test.GoodRoutes):
    settings = {"maximum_version": ssl.TLSVersion.TLSv1_2}

    def test_version(self):
        self.assertEqual(self.client().facts()["version"], "TLSv1.2")


class Handshake(TlsTest):
    def test_facts(self):
        c = self.client(context=trust(self.ca), name="a.origin.localhost")
        facts = c.facts()
        self.assertRegex(facts.pop("cipher"), "^TLS_")
        self.assertEqual(facts, {
            "version": "TLSv1.3", "group": "x25519", "sni": "a.origin.localhost", "alpn": "-",
            "resumed": "no", "early-data": "none", "hello-retry": "no", "client": "-"})

    def test_names(self):
        for name in ("localhost", "x.origin.localhost", "127.0.0.1", "::1"):
            self.assertEqual(self.client(name=name).get("/bytes/1").answer()[2], pattern(1), name)
        for name in ("other.localhost", "origin.localhost", "127.0.0.2"):
            with self.assertRaises(ssl.SSLCertVerificationError, msg=name):
                self.client(name=name)

    def test_unknown_ca(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        with self.assertRaises(ssl.SSLCertVerificationError):
            self.client(context=context)
        self.assertEqual(self.ask("/bytes/1")[0], 200)

    def test_alpn(self):
        context = trust(self.ca)
        for offered, chosen in ((["http/1.1"], "http/1.1"), (["http/1.1", "h2"], "h2"),
                                (["h2"], "h2"), (["spdy/1", "http/1.1"], "http/1.1")):
            context.set_alpn_protocols(offered)
            c = self.client(context=context)
            self.assertEqual(c.s.tls.selected_alpn_protocol(), chosen, offered)
            if chosen == "http/1.1":
                self.assertEqual(c.facts()["alpn"], "http/1.1")
        context.set_alpn_protocols(["spdy/1"])
        with self.assertRaisesRegex(ssl.SSLError, "(?i)no.application.protocol"):
            self.client(context=context)

    def test_resumption_finds_the_other_thread(self):
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = trust(self.ca, maximum_version=version, minimum_version=version)
            c = self.client(context=context)
            self.assertEqual(c.facts()["resumed"], "no")
            for _ in range(16):  # the kernel chooses the thread: all on one is unlikely
                before = self.stats()["handshakes_resumed"]
                c = self.client(context=context, session=c.s.tls.session)
                self.assertEqual(c.facts()["resumed"], "yes")
                self.assertTrue(c.s.tls.session_reused)
                self.assertEqual(self.stats()["handshakes_resumed"], before + 1)

    def test_counters(self):
        before = self.stats()
        self.ask("/bytes/1")
        with socket.create_connection(("127.0.0.1", self.origin.port)):
            pass
        deadline = time.monotonic() + WAIT_S
        while self.stats()["handshakes_failed"] == before["handshakes_failed"]:
            self.assertLess(time.monotonic(), deadline)
        after = self.stats()
        self.assertEqual(after["handshakes_failed"], before["handshakes_failed"] + 1)
        self.assertGreaterEqual(after["handshakes"], before["handshakes"] + 3)

    def test_plain_server_says_so(self):
        origin = Origin()
        self.addCleanup(origin.stop)
        with Client(origin.port) as c:
            self.assertEqual(c.get("/tls").answer()[2], b"version: -\n")
            self.assertEqual(json.loads(c.get("/stats").answer()[2])["handshakes"], 0)


class Endings(TlsTest):
    def ending(self, target):
        c = self.client().get(target)
        body = c.read_to_end()
        return body, c.s.ended_by

    def test_bodies_that_end_with_the_conn(self):
        for size in (0, 10, 500000):
            want = b"HTTP/1.1 200 OK\r\n\r\n" + pattern(size)
            for notify, end in (("", "close_notify"), ("&notify=1", "close_notify"),
                                ("&notify=0", "FIN")):
                body, ended_by = self.ending(f"/bad/eof-body?bytes={size}{notify}")
                self.assertTrue(body == want)
                self.assertEqual(ended_by, end)

    def test_orderly_ends(self):
        for target in ("/close", "/bad/garbage", "/bad/close-idle", "/bad/short?notify=1",
                       "/bad/close-mid-head?notify=1"):
            self.assertEqual(self.ending(target)[1], "close_notify", target)
        c = self.client().send(b"nonsense\r\n\r\n")
        self.assertEqual(c.answer()[0], 400)
        self.assertEqual((c.read_to_end(), c.s.ended_by), (b"", "close_notify"))

    def test_truncations(self):
        for target in ("/bad/short", "/bad/close-mid-head", "/bad/close-idle?notify=0",
                       "/bad/garbage?notify=0"):
            self.assertEqual(self.ending(target)[1], "FIN", target)

    def test_close_notify_is_answered(self):
        c = self.client().get("/bytes/5")
        self.assertEqual(c.answer()[2], pattern(5))
        with self.assertRaises(ssl.SSLWantReadError):
            c.s.tls.unwrap()
        c.s.push()
        self.assertEqual((c.read_to_end(), c.s.ended_by), (b"", "close_notify"))

    def test_idle_timeout_says_close_notify(self):
        ca = path_of("idle.pem")
        origin = Origin("--tls", "--tls-ca-out", ca, "--idle-timeout", "50", "--max-requests", "2")
        self.addCleanup(origin.stop)
        c = TlsClient(origin.port, trust(ca))
        self.addCleanup(c.s.close)
        self.assertEqual((c.read_to_end(), c.s.ended_by), (b"", "close_notify"))
        c = TlsClient(origin.port, trust(ca))
        self.addCleanup(c.s.close)
        c.get("/bytes/1").answer()
        c.get("/bytes/1").answer()
        self.assertEqual((c.read_to_end(), c.s.ended_by), (b"", "close_notify"))


class Hostile(TlsTest):
    options = ("--threads", "1", "--tls-handshake-timeout", "300")

    def raw(self):
        s = socket.create_connection(("127.0.0.1", self.origin.port), WAIT_S)
        self.addCleanup(s.close)
        return s

    @staticmethod
    def read_to_end(s):
        got = b""
        try:
            while piece := s.recv(1 << 16):
                got += piece
        except ConnectionResetError:
            pass
        return got

    def test_handshake_garbage_gets_an_end(self):
        bystander = self.client()
        for garbage in (b"GET / HTTP/1.1\r\nHost: t\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"x" * 70000,
                        b"\x16\x03\x01\x00\x05hello", b"\x17\x03\x03\x00\x01x", b"\0" * 300000):
            failed = self.stats()["handshakes_failed"]
            s = self.raw()
            begin = time.monotonic()
            try:
                s.sendall(garbage)
            except (ConnectionResetError, BrokenPipeError):
                pass
            got = self.read_to_end(s)
            self.assertLess(time.monotonic() - begin, 0.25, garbage[:20])
            self.assertLess(len(got), 20)
            s.close()
            deadline = time.monotonic() + WAIT_S
            while self.stats()["handshakes_failed"] == failed:
                self.assertLess(time.monotonic(), deadline)
            self.assertEqual(bystander.get("/bytes/3").answer()[2], pattern(3))

    def test_stalled_handshakes_are_ended(self):
        stalled = []
        for begin in (b"", b"\x16\x03", b"\x16\x03\x01\x02\x00\x01"):
            stalled.append(self.raw())
            stalled[-1].sendall(begin)
        dripping = self.raw()
        begin = time.monotonic()
        with self.assertRaises((ConnectionResetError, BrokenPipeError)):
            while time.monotonic() < begin + WAIT_S:
                dripping.sendall(b"\x16" if time.monotonic() < begin + 0.01 else b"\x03")
                time.sleep(0.02)
        self.assertLess(time.monotonic() - begin, 2)
        for s in stalled:
            self.assertEqual(self.read_to_end(s), b"")
        self.assertEqual(self.ask("/bytes/1")[0], 200)

    def test_handshake_one_byte_at_a_time(self):
        class Trickle:
            def __init__(self, s):
                self.s = s
                self.recv = lambda size: s.recv(7)

            def sendall(self, data):
                for i in range(len(data)):
                    self.s.sendall(data[i:i + 1])

        tls = TlsSocket(Trickle(self.raw()), self.context)
        tls.sendall(b"GET /bytes/3 HTTP/1.0\r\n\r\n")
        got = b""
        while piece := tls.recv(100):
            got += piece
        self.assertTrue(got.endswith(b"\r\n\r\n" + pattern(3)))
        self.assertEqual(tls.ended_by, "close_notify")

    def test_record_broken_later(self):
        for broken in (b"\x17\x03\x03\x00\x20" + b"x" * 32, b"HTTP is plain\r\n\r\n"):
            c = self.client()
            c.get("/bytes/3").answer()
            c.s.raw.sendall(broken)
            with self.assertRaises((ssl.SSLError, ConnectionResetError)):
                while c.s.recv(100):
                    pass
        self.assertEqual(self.ask("/bytes/1")[0], 200)

    def test_reset_in_the_middle(self):
        for _ in range(20):
            c = self.client().get("/bytes/10000000")
            c.read(1000)
            c.s.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            c.s.close()
        self.assertEqual(self.ask("/bytes/1")[0], 200)

    def test_fin_without_close_notify_is_an_end(self):
        c = self.client().get("/bytes/100000").get("/bytes/5")
        c.s.raw.shutdown(socket.SHUT_WR)
        self.assertTrue(c.answer()[2] == pattern(100000))
        self.assertEqual(c.answer()[2], pattern(5))
        self.assertEqual((c.read_to_end(), c.s.ended_by), (b"", "close_notify"))

    def test_unread_bodies_are_held_back(self):
        def memory():
            with open(f"/proc/{self.origin.process.pid}/status") as f:
                return int(f.read().split("VmRSS:")[1].split()[0])

        before = memory()
        clients = [self.client(receive_buffer=4096).get("/bytes/1000000000") for _ in range(20)]
        time.sleep(0.3)
        self.assertLess(memory() - before, 20000)  # KB
        for c in clients:
            c.s.close()

    def test_upload_while_the_answer_waits(self):
        body = pattern(3000000)
        c = self.client(receive_buffer=4096)
        c.get("/echo", f"Content-Length: {len(body)}\r\n", method="PUT")
        sender = threading.Thread(target=c.send, args=(body,))
        sender.start()
        self.assertTrue(c.answer()[2] == body)
        sender.join()


class Started(unittest.TestCase):
    """Tests that start a server with options of their own."""

    def start(self, *options, ca="ca.pem"):
        ca_out = ("--tls-ca-out", path_of(ca)) if ca else ()
        origin = Origin("--tls", *ca_out, *options)
        self.addCleanup(lambda: origin.process.poll() is None and origin.stop())
        return origin

    def open(self, origin, context=None, **options):
        c = TlsClient(origin.port, context or trust(path_of("ca.pem")), **options)
        self.addCleanup(c.s.close)
        return c


class Certificates(Started):
    def test_key_types(self):
        for key_type, algorithm in (("ecdsa", "id-ecPublicKey"), ("rsa", "rsaEncryption"),
                                    ("ed25519", "ED25519")):
            origin = self.start("--tls-key-type", key_type)
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                c = self.open(origin, trust(path_of("ca.pem"), maximum_version=version))
                der = c.s.tls.getpeercert(binary_form=True)
                text = subprocess.run(["openssl", "x509", "-inform", "DER", "-noout", "-text"],
                                      input=der, capture_output=True, check=True).stdout
                self.assertIn(f"Public Key Algorithm: {algorithm}".encode(), text)
                self.assertEqual(c.get("/bytes/9").answer()[2], pattern(9))

    def test_certificate_is_strictly_valid(self):
        origin = self.start()
        der = self.open(origin).s.tls.getpeercert(binary_form=True)
        with open(path_of("server.pem"), "w") as f:
            f.write(ssl.DER_cert_to_PEM_cert(der))
        run = subprocess.run(["openssl", "verify", "-x509_strict", "-purpose", "sslserver",
                              "-verify_hostname", "localhost", "-CAfile", path_of("ca.pem"),
                              path_of("server.pem")], capture_output=True)
        self.assertEqual(run.returncode, 0, run)

    def test_more_names(self):
        origin = self.start("--tls-name", "db.example", "--tls-name", "10.1.2.3", "--bind",
                            "127.0.0.5")
        for name in ("db.example", "10.1.2.3", "127.0.0.5", "localhost"):
            c = self.open(origin, host="127.0.0.5", name=name)
            self.assertEqual(c.get("/bytes/1").answer()[0], 200)

    def test_ipv6(self):
        origin = self.start("--bind", "::1")
        self.assertRegex(origin.line, r"^listening on https://\[::1\]:\d+$")
        c = self.open(origin, host="::1", name="::1")
        self.assertEqual(c.get("/bytes/9").answer()[2], pattern(9))

    def test_unix_socket(self):
        origin = self.start("--bind", "unix:" + path_of("s"))
        self.assertEqual(origin.line, "listening on unix:" + path_of("s"))
        with socket.socket(socket.AF_UNIX) as raw:
            raw.settimeout(WAIT_S)
            raw.connect(path_of("s"))
            s = TlsSocket(raw, trust(path_of("ca.pem")))
            s.sendall(b"GET /bytes/300000 HTTP/1.0\r\n\r\n")
            got = b""
            while piece := s.recv(1 << 16):
                got += piece
            self.assertTrue(got.endswith(pattern(300000)))

    def test_given_certificate(self):
        cert, key = self_signed("given", "-addext", "subjectAltName=DNS:given.example")
        origin = self.start("--tls-cert", cert, "--tls-key", key, ca=None)
        c = self.open(origin, trust(cert), name="given.example")
        self.assertEqual(c.get("/bytes/1").answer()[0], 200)

    def test_versions(self):
        v12, v13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
        for options, allowed, refused in ((("--tls-min", "1.3"), v13, v12),
                                          (("--tls-max", "1.2"), v12, v13)):
            origin = self.start(*options)
            one = lambda v: trust(path_of("ca.pem"), minimum_version=v, maximum_version=v)
            self.assertEqual(self.open(origin, one(allowed)).get("/bytes/1").answer()[0], 200)
            with self.assertRaises(ssl.SSLError):
                self.open(origin, one(refused))

    def test_groups_force_a_retry(self):
        origin = self.start("--tls-groups", "P-384")
        facts = self.open(origin).facts()
        self.assertEqual((facts["group"], facts["hello-retry"]), ("secp384r1", "yes"))

    def test_tickets(self):
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            for tickets in (0, 1, 7):
                origin = self.start("--tls-tickets", str(tickets))
                context = trust(path_of("ca.pem"), maximum_version=version)
                c = self.open(origin, context)
                c.facts()
                self.assertEqual(c.s.tls.session.has_ticket, tickets > 0)
                again = self.open(origin, context, session=c.s.tls.session)
                self.assertEqual(again.facts()["resumed"], "yes" if tickets else "no")

    def test_number_of_tickets(self):
        for tickets in (0, 3):
            origin = self.start("--tls-tickets", str(tickets))
            text = s_client(origin, "-msg", request=b"GET /bytes/1 HTTP/1.0\r\n\r\n")
            self.assertEqual(text.count(b", NewSessionTicket"), tickets)

    def test_bad_options(self):
        for options in (["--tls-min", "1.3"], ["--tls", "--tls-min", "1.1"],
                        ["--tls", "--tls-min", "1.3", "--tls-max", "1.2"],
                        ["--tls", "--tls-key-type", "dsa"], ["--tls", "--tls-cert", "x"],
                        ["--tls", "--tls-tickets", "x"], ["--tls", "--tls-allow-replay"],
                        ["--tls", "--tls-cert", "x", "--tls-key", "y", "--tls-ca-out", "z"],
                        ["--tls", *["--tls-name", "x"] * 17]):
            run = subprocess.run([ORIGIN, *options], capture_output=True, timeout=WAIT_S)
            self.assertEqual(run.returncode, 2, options)
            self.assertIn(b"--help", run.stderr)
        for options, what in ((["--tls-cert", "/none", "--tls-key", "/none"], b"/none"),
                              (["--tls-client-ca", "/none"], b"/none"),
                              (["--tls-ca-out", "/none/ca.pem"], b"/none/ca.pem"),
                              (["--tls-groups", "P-1"], b"P-1")):
            run = subprocess.run([ORIGIN, "--tls", *options], capture_output=True, timeout=WAIT_S)
            self.assertEqual((run.returncode, run.stdout), (1, b""), options)
            self.assertIn(what, run.stderr)

    def test_alpn_without_h2(self):
        origin = self.start("--no-h2")
        context = trust(path_of("ca.pem"))
        context.set_alpn_protocols(["h2", "http/1.1"])
        c = self.open(origin, context)
        self.assertEqual(c.s.tls.selected_alpn_protocol(), "http/1.1")
        self.assertEqual(c.facts()["alpn"], "http/1.1")
        context.set_alpn_protocols(["h2"])
        with self.assertRaisesRegex(ssl.SSLError, "(?i)no.application.protocol"):
            self.open(origin, context)


class ClientCertificates(Started):
    def test_required_and_verified(self):
        cert, key = self_signed("client", subject="/O=Mooring/CN=a client")
        other_cert, other_key = self_signed("stranger")
        origin = self.start("--tls-client-ca", cert)
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = trust(path_of("ca.pem"), maximum_version=version)
            known, stranger = [trust(path_of("ca.pem"), maximum_version=version) for _ in "ab"]
            known.load_cert_chain(cert, key)
            stranger.load_cert_chain(other_cert, other_key)
            c = self.open(origin, known)
            self.assertEqual(c.facts()["client"], "CN=a client,O=Mooring")
            again = self.open(origin, known, session=c.s.tls.session).facts()
            self.assertEqual((again["client"], again["resumed"]), ("CN=a client,O=Mooring", "yes"))
            for refused, alert in ((context, "certificate.required|handshake.failure"),
                                   (stranger, "unknown.ca")):
                with self.assertRaisesRegex(ssl.SSLError, "(?i)" + alert):
                    # TLS 1.3: the client is done before the server has looked.
                    self.open(origin, refused).get("/bytes/1").answer()
        with self.open(origin, known) as c:
            stats = json.loads(c.get("/stats").answer()[2])
        self.assertEqual(stats["handshakes_failed"], 4)


class EarlyData(Started):
    def early(self, origin, session, early, late=b""):
        with open(path_of("early"), "wb") as f:
            f.write(early)
        return s_client(origin, "-sess_in", session, "-early_data", path_of("early"), request=late)

    def session(self, origin):
        name = path_of("session")
        s_client(origin, "-sess_out", name, request=b"GET /bytes/1 HTTP/1.0\r\n\r\n")
        return name

    def stats(self, origin):
        with self.open(origin) as c:
            return json.loads(c.get("/stats").answer()[2])

    def test_answered_and_marked(self):
        origin = self.start("--tls-early-data")
        text = self.early(origin, self.session(origin),
                          b"GET /tls HTTP/1.1\r\nHost: t\r\n\r\nGET /late HTTP/1.0\r\n\r\n")
        self.assertIn(b"Early data was accepted", text)
        self.assertIn(b"\nearly-data: accepted\n", text)
        self.assertIn(b"HTTP/1.1 425 Too Early\r\n", text)
        self.assertEqual(text.count(b"Origin-Early-Data: 1\r\n"), 2)
        self.assertEqual(self.stats(origin)["early_data_accepted"], 1)

    def test_later_requests_are_not_marked(self):
        origin = self.start("--tls-early-data")
        text = self.early(origin, self.session(origin), b"GET /bytes/1 HTTP/1.1\r\nHost: t\r\n\r\n",
                          b"GET /late HTTP/1.0\r\n\r\n")
        self.assertIn(b"late enough\n", text)
        self.assertEqual(text.count(b"Origin-Early-Data: 1\r\n"), 1)

    def test_begun_early_is_early(self):
        origin = self.start("--tls-early-data")
        text = self.early(origin, self.session(origin), b"POST /echo HTTP/1.0\r\nContent-Length: 6\r\n",
                          b"\r\nhello\n")
        self.assertIn(b"hello\n", text)
        self.assertEqual(text.count(b"Origin-Early-Data: 1\r\n"), 1)

    def test_a_ticket_is_good_once(self):
        request = b"GET /bytes/1 HTTP/1.0\r\n\r\n"
        for options, second in (((), b"rejected"), (("--tls-allow-replay",), b"accepted")):
            origin = self.start("--tls-early-data", "--threads", "2", *options)
            session = self.session(origin)
            self.assertIn(b"Early data was accepted", self.early(origin, session, request))
            self.assertIn(b"Early data was " + second,
                          self.early(origin, session, request, request))
            self.assertEqual(self.stats(origin)["early_data_accepted"], 1 + (not not options))

    def test_not_without_the_option(self):
        origin = self.start()
        session = self.session(origin)
        with open(session) as f:
            self.assertNotIn("Max Early Data: 16384", f.read())
        self.assertEqual(self.stats(origin)["early_data_accepted"], 0)

    def test_ordinary_clients_do_not_notice(self):
        origin = self.start("--tls-early-data")
        c = self.open(origin)
        self.assertEqual(c.facts()["early-data"], "none")
        again = self.open(origin, c.s.tls.context, session=c.s.tls.session)
        self.assertEqual(again.facts()["resumed"], "yes")
        v12 = trust(path_of("ca.pem"), maximum_version=ssl.TLSVersion.TLSv1_2)
        self.assertEqual(self.open(origin, v12).get("/bytes/100000").answer()[2], pattern(100000))


if __name__ == "__main__":
    unittest.main(verbosity=1)
