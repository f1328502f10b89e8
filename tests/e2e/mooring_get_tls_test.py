#!/usr/bin/env python3
"""mooring get over https: whom it trusts, what it says of a handshake, what it advises after a bad one.

Usage: mooring_get_tls_test.py PATH-OF-MOORING PATH-OF-MOORING-ORIGIN [unittest arguments]
"""

import base64
import calendar
import hashlib
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

from mooring_case import Origin, pattern, run

MOORING, ORIGIN = sys.argv[1:3]
del sys.argv[1:3]
NO_SUCH_PIN = "sha256/" + base64.b64encode(bytes(32)).decode()
SYSTEM_ROOTS = Path("/etc/ssl/certs/ca-certificates.crt")
FOLDER = tempfile.TemporaryDirectory(prefix="mooring-get-tls-")
unittest.addModuleCleanup(FOLDER.cleanup)


def path_of(name):
    return str(Path(FOLDER.name) / name)


def der_items(der):
    """(tag, whole, content) of each element in a row; enough of DER for certificates."""
    while der:
        length, head = der[1], 2
        if length & 0x80:
            head += length & 0x7f
            length = int.from_bytes(der[2:head], "big")
        yield der[0], der[:head + length], der[head:head + length]
        der = der[head + length:]


def pin_of(certificate):
    """sha256/... of the key in a PEM certificate."""
    (_, _, whole), = der_items(ssl.PEM_cert_to_DER_cert(certificate))
    parts = list(der_items(next(der_items(whole))[2]))
    # version, serial, algorithm, issuer, dates, subject, key: the version is optional.
    key = parts[6 if parts[0][0] == 0xa0 else 5][1]
    return "sha256/" + base64.b64encode(hashlib.sha256(key).digest()).decode()


class Server(Origin):
    def __init__(self, name, *options):
        self.ca = path_of(name + ".pem")
        super().__init__(ORIGIN, "--tls", "--tls-ca-out", self.ca, *options)

    def peer(self):
        """The server's certificate as Python's ssl sees it: PEM, and taken apart."""
        context = ssl.create_default_context(cafile=self.ca)
        with socket.create_connection(("127.0.0.1", self.port)) as raw, \
                context.wrap_socket(raw, server_hostname="localhost") as s:
            return ssl.DER_cert_to_PEM_cert(s.getpeercert(True)), s.getpeercert()


class TlsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.servers = []
        cls.server = cls.serve("server")

    @classmethod
    def serve(cls, name, *options):
        server = Server(cls.__name__ + "-" + name, *options)
        cls.addClassCleanup(server.__exit__)
        return server

    def get(self, *arguments, server=None, ca=True, **settings):
        """Arguments that start with '/' are targets; the CA is given unless ca is false."""
        server = server or self.server
        trust = ["--cacert", server.ca] if ca else []
        return run(MOORING, "get", *trust,
                   *[f"https://localhost:{server.port}{a}" if re.match("/[a-z-]+(/|$)", a) and
                     not Path(a).exists() and not a.startswith(FOLDER.name) else a
                     for a in arguments], **settings)

    def body(self, *arguments, **more):
        code, out, err = self.get(*arguments, **more)
        self.assertEqual((code, err), (0, ""))
        return out

    def refused(self, code, what, *arguments, **more):
        """No body, and one line that says why and what to do."""
        got, out, err = self.get(*arguments, **more)
        self.assertEqual((got, out), (code, b""), err)
        self.assertRegex(err, rf"\Amooring get: [^\n]*{what}[^\n]*\n\Z")
        if code in (35, 60):
            self.assertNotIn("--help", err)
        return err

    def facts(self, *arguments, **more):
        """What the server's /tls says."""
        lines = self.body(*arguments, "/tls", **more).decode().splitlines()
        return dict(line.split(": ", 1) for line in lines)


class Trust(TlsTest):
    def test_bodies(self):
        for length in (0, 1, 16384, 16385, 3_000_000):
            self.assertTrue(self.body(f"/bytes/{length}") == pattern(length), length)
        self.assertTrue(self.body("-d", "@-", "/echo", stdin=pattern(300_000)) == pattern(300_000))

    def test_authority_that_is_not_ours(self):
        self.other = self.serve("other")
        self.refused(60, "no trusted authority.*--cacert", "--cacert", self.other.ca, "/bytes/1",
                     ca=False)
        if not SYSTEM_ROOTS.exists():
            self.skipTest("no roots of the system here")
        self.refused(60, "no trusted authority.*--cacert", "/bytes/1", ca=False)

    def test_directory(self):
        folder = Path(path_of("roots"))
        folder.mkdir()
        self.refused(2, f"{folder}: no .pem", "--cacert", str(folder), "/bytes/1", ca=False)
        shutil.copy(self.server.ca, folder / "one.pem")
        self.assertEqual(self.body("--cacert", str(folder), "/bytes/1", ca=False), pattern(1))

    def test_variable_does_the_same(self):
        self.assertEqual(self.body("/bytes/1", ca=False, MOORING_TLS_CA=self.server.ca), pattern(1))

    def test_files_that_cannot_be_used(self):
        Path(path_of("nonsense.pem")).write_text("nonsense\n")
        for name, why in ((path_of("nowhere"), "No such file"),
                          (path_of("nonsense.pem"), "no certificate")):
            self.refused(2, f"{name}: {why}", "--cacert", name, "/bytes/1", ca=False)
        self.refused(2, f"{path_of('nowhere')}: No such file", "--cert", path_of("nowhere"),
                     "/bytes/1")
        self.refused(2, "nonsense.pem: no certificate of ours in it", "--cert", path_of("nonsense.pem"), "/bytes/1")
        self.refused(2, "key.*without a certificate", "--key", path_of("nowhere"), "/bytes/1")

    def test_empty_values_are_refused(self):
        for option in ("--cacert", "--cert", "--key", "--pin", "--server-name", "--tls-min"):
            self.refused(2, f"{option} .*--help", option, "", "/bytes/1")

    def test_names(self):
        hosts = path_of("hosts")
        Path(hosts).write_text("127.0.0.1 localhost wrong.example\n")
        self.refused(60, "not for this host.*--server-name",
                     f"https://wrong.example:{self.server.port}/bytes/1", MOORING_HOSTS_FILE=hosts)
        self.refused(60, "not for this host.*--server-name", "--server-name", "wrong.example",
                     "/bytes/1")
        facts = self.facts("--server-name", "a.origin.localhost")
        self.assertEqual(facts["sni"], "a.origin.localhost")
        self.assertEqual(self.facts()["sni"], "localhost")

    def test_insecure(self):
        warning = r"\Amooring: tls\.insecure: .*WITHOUT VERIFICATION[^\n]*\n\Z"
        for arguments in (("/bytes/1",), ("--server-name", "wrong.example", "/bytes/1")):
            code, out, err = self.get("--insecure", *arguments, ca=False, MOORING_LOG="warn")
            self.assertEqual((code, out), (0, pattern(1)))
            self.assertRegex(err, warning)
        self.assertEqual(self.body("--insecure", "/bytes/1", ca=False), pattern(1))
        self.assertEqual(self.body("/bytes/1", MOORING_LOG="warn"), pattern(1))

    def test_versions(self):
        old = self.serve("old", "--tls-max", "1.2")
        self.assertEqual(self.facts(server=old)["version"], "TLSv1.2")
        self.assertEqual(self.facts("--tls-min", "1.3")["version"], "TLSv1.3")
        self.refused(35, "--tls-min", "--tls-min", "1.3", "/bytes/1", server=old)
        for text in ("1.1", "1", "1.4", "tls"):
            self.refused(2, "1.2 nor 1.3.*--help", "--tls-min", text, "/bytes/1")

    def test_the_other_scheme(self):
        code, out, err = self.get(f"http://localhost:{self.server.port}/bytes/1")
        self.assertEqual((code, out), (56, b""), err)
        # A server that answers, whatever it hears, in clear.
        with socket.create_server(("127.0.0.1", 0)) as listener:
            with subprocess.Popen([MOORING, "get", "--insecure",
                                   f"https://127.0.0.1:{listener.getsockname()[1]}/"],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
                peer, _ = listener.accept()
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                out, err = program.communicate()
                peer.close()
        self.assertEqual((program.returncode, out), (35, b""), err)
        self.assertRegex(err, rb"\Amooring get: [^\n]* use http://\n\Z")


class Pins(TlsTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.pin = pin_of(cls.server.peer()[0])
        cls.ca_pin = pin_of(Path(cls.server.ca).read_text())

    def test_right_and_wrong(self):
        self.assertEqual(self.body("--pin", self.pin, "/bytes/1"), pattern(1))
        self.refused(60, "not pinned.*--pin", "--pin", NO_SUCH_PIN, "/bytes/1")

    def test_several(self):
        for pins in ((NO_SUCH_PIN + "," + self.pin,), (self.pin, NO_SUCH_PIN),
                     (NO_SUCH_PIN, self.pin), (NO_SUCH_PIN, NO_SUCH_PIN + "," + self.pin)):
            options = [part for pin in pins for part in ("--pin", pin)]
            self.assertEqual(self.body(*options, "/bytes/1"), pattern(1), pins)
        self.refused(60, "not pinned", "--pin", NO_SUCH_PIN, "--pin", NO_SUCH_PIN, "/bytes/1")

    def test_authority(self):
        self.refused(60, "not pinned", "--pin", self.ca_pin, "/bytes/1")
        self.assertEqual(self.body("--pin", self.ca_pin, "--pin-chain", "/bytes/1"), pattern(1))
        self.refused(60, "not pinned", "--pin", NO_SUCH_PIN, "--pin-chain", "/bytes/1")

    def test_malformed(self):
        for pin in ("sha256/AAAA", self.pin[7:], self.pin[:-1], "sha1/" + self.pin[7:],
                    "sha256/" + "?" * 44, "nonsense"):
            self.refused(2, re.escape(f'pin "{pin}"'), "--pin", pin, "/bytes/1")
            self.refused(2, re.escape(f'pin "{pin}"'), "--pin", self.pin, "--pin", pin, "/bytes/1")
        self.refused(2, "names none", "--pin", ",", "/bytes/1")

    def test_pins_do_not_make_up_for_trust(self):
        other = self.serve("other")
        self.refused(60, "no trusted authority", "--cacert", other.ca, "--pin", self.pin, "/bytes/1",
                     ca=False)
        self.refused(2, "mean nothing without verification", "--insecure", "--pin", self.pin,
                     "/bytes/1")


@unittest.skipUnless(shutil.which("openssl"), "openssl makes the certificates")
class ClientCertificate(TlsTest):
    @classmethod
    def setUpClass(cls):
        cls.servers = []
        for name in ("me", "stranger"):
            subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                            "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj",
                            "/CN=" + name, "-keyout", path_of(name + ".key"), "-out",
                            path_of(name + ".crt")], check=True, capture_output=True)
        Path(path_of("both.pem")).write_text(Path(path_of("me.crt")).read_text() +
                                             Path(path_of("me.key")).read_text())
        wanted = ("--tls-client-ca", path_of("me.crt"))
        cls.server = cls.serve("new", *wanted)
        cls.old = cls.serve("old", *wanted, "--tls-max", "1.2")

    @staticmethod
    def pair(certificate, key=None):
        return "--cert", path_of(certificate + ".crt"), "--key", path_of((key or certificate) + ".key")

    def test_accepted(self):
        for server in (self.server, self.old):
            self.assertEqual(self.facts(*self.pair("me"), server=server)["client"], "CN=me")
            self.assertEqual(self.facts("--cert", path_of("both.pem"), server=server)["client"],
                             "CN=me")

    def test_missing(self):
        for server in (self.server, self.old):
            self.refused(35, "--cert and --key", "/bytes/1", server=server)

    def test_refused_by_the_server(self):
        for server in (self.server, self.old):
            self.refused(35, "does not trust.*--cert", *self.pair("stranger"), "/bytes/1",
                         server=server)

    def test_pair_that_does_not_fit(self):
        self.refused(2, "stranger.key: the key in it is not that of our certificate in .*me.crt", *self.pair("me", "stranger"),
                     "/bytes/1")
        self.refused(2, "me.crt: no key of ours in it", "--cert", path_of("me.crt"), "/bytes/1")


class Info(TlsTest):
    def info(self, *arguments, code=0, **more):
        """One dict for each report on standard error, and the rest of it."""
        got, out, err = self.get("--tls-info", *arguments, **more)
        self.assertEqual(got, code, err)
        reports, rest = [], []
        for line in err.splitlines():
            if line.startswith("* TLS of "):
                reports.append({"of": line[9:].rstrip(":")})
            elif line.startswith("*   "):
                name, value = re.fullmatch(r"\*   (.{12}) (.+)", line).groups()
                reports[-1][name.rstrip()] = value
            else:
                rest.append(line)
        return reports, rest, out

    def test_first_handshake(self):
        (seen,), rest, out = self.info("/tls")
        facts = dict(line.split(": ", 1) for line in out.decode().splitlines())
        certificate = self.server.peer()[1]
        self.assertEqual(rest, [])
        self.assertEqual(seen["of"], f"https://localhost:{self.server.port}/tls")
        self.assertEqual("TLSv" + seen["version"], facts["version"])
        self.assertRegex(seen["cipher"], "AES|CHACHA")
        self.assertEqual(seen["group"].lower(), facts["group"])
        self.assertEqual((seen["ALPN"], facts["alpn"]), ("h2", "h2"))
        self.assertEqual((seen["resumed"], seen["stapled"]), ("no", "no"))
        self.assertRegex(seen["handshake"], r"\A\d+(\.\d+)? [um]?s\Z")
        self.assertIn("CN=mooring-origin", seen["subject"])
        self.assertIn("CN=mooring-origin", seen["issuer"])
        self.assertNotEqual(seen["subject"], seen["issuer"])
        date, days = re.fullmatch(r"(.*) UTC, in (\d+) days", seen["valid until"]).groups()
        ends = calendar.timegm(time.strptime(date, "%Y-%m-%d %H:%M:%S"))
        self.assertEqual(ends, ssl.cert_time_to_seconds(certificate["notAfter"]))
        self.assertIn(int(days), [int((ends - time.time() + d) // 86400) for d in (0, 60)])

    def test_protocol(self):
        (seen,), _, out = self.info("--http1.1", "/tls")
        self.assertEqual(seen["ALPN"], "http/1.1")
        self.assertIn(b"\nalpn: http/1.1\n", out)

    def test_older_version(self):
        old = self.serve("old", "--tls-max", "1.2", "--tls-key-type", "rsa")
        (seen,), _, _ = self.info("/bytes/1", server=old)
        self.assertEqual(seen["version"], "1.2")
        self.assertRegex(seen["cipher"], "ECDHE.RSA")

    def test_reuse_and_resumption(self):
        reports, _, out = self.info("--http1.1", "/bytes/1", "/bytes/2", "/bad/close-idle?after=0",
                                    "/bytes/3")
        self.assertEqual(out, pattern(1) + pattern(2) + b"ok\n" + pattern(3))
        self.assertEqual(reports[0]["resumed"], "no")
        for reused in reports[1:3]:
            self.assertIn("the connection of an earlier request", reused["of"])
        self.assertTrue(reports[3]["resumed"].startswith("yes"), reports[3])
        self.assertNotIn("subject", reports[3])
        self.assertEqual(reports[3]["valid until"], reports[0]["valid until"])

    def test_without_tickets_nothing_is_resumed(self):
        server = self.serve("bare", "--tls-tickets", "0")
        reports, _, _ = self.info("--http1.1", "/bad/close-idle?after=0", "/bytes/3", server=server)
        self.assertEqual([r["resumed"] for r in reports], ["no", "no"])

    def test_not_verified(self):
        (seen,), _, _ = self.info("--insecure", "/bytes/1")
        self.assertEqual(seen["subject"], "CN=mooring-origin")
        self.assertIn("valid until", seen)

    def test_nothing_to_say(self):
        reports, rest, _ = self.info("--server-name", "wrong.example", "/bytes/1", code=60)
        self.assertEqual((reports, len(rest)), ([], 1))
        plain = Origin(ORIGIN)
        self.addCleanup(plain.__exit__)
        self.assertEqual(self.info(plain.url("/bytes/1")), ([], [], pattern(1)))

    def test_not_asked_for(self):
        self.assertEqual(self.body("/bytes/1"), pattern(1))


if __name__ == "__main__":
    unittest.main()
