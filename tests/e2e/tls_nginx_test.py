#!/usr/bin/env python3
"""The program over TLS against real servers: nginx, openssl s_server, haproxy, Python's ssl.

Usage: tls_nginx_test.py PATH-OF-MOORING PATH-OF-MOORING-ORIGIN [unittest arguments]
Skipped (77) where nginx is not installed. What certificates must fulfil is in tls_matrix_test.py.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

from mooring_case import WAIT_S, Origin, closed_port, environment, pattern, run
from tls_authority import SERVER_CONF, Certificate, Key, make_all
from tls_servers import (NGINX, Nginx, OpenSSLServer, Relay, free_ports, is_listening,
                         wait_until)

MOORING, ORIGIN = sys.argv[1:3]
del sys.argv[1:3]
HAPROXY = shutil.which("haproxy", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
HOST, OTHER, WRONG = "www.harbour.test", "other.harbour.test", "wrong.harbour.test"
BIG = os.urandom(1 << 20) * 100

AUTHORITY = ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign",
             "subjectKeyIdentifier=hash")


class Papers:
    """A root, an intermediate, and certificates for three hosts, of which one is wrong."""

    def __init__(self, root):
        self.root = root
        (root / "server.cnf").write_text(SERVER_CONF)
        keys = [Key("p256", n) for n in range(6)] + [Key("rsa2048")]
        anchor = Certificate("/CN=Harbour Root", keys[0], extensions=AUTHORITY)
        middle = Certificate("/CN=Harbour Intermediate", keys[1], anchor, extensions=AUTHORITY)
        self.all = [anchor, middle]

        def leaf(subject, key, *lines):
            made = Certificate("/CN=" + subject, key, middle, extensions=lines)
            self.all.append(made)
            return made

        leaves = {
            "www": leaf("www", keys[2], f"subjectAltName=DNS:{HOST},IP:127.0.0.1"),
            "other": leaf("other", keys[3], f"subjectAltName=DNS:{OTHER}"),
            "next": leaf("next", keys[4], f"subjectAltName=DNS:{HOST}"),
            "rsa": leaf("rsa", keys[6], f"subjectAltName=DNS:{HOST}"),
            "mate": leaf("mate", keys[5], "extendedKeyUsage=clientAuth"),
        }
        make_all(root, keys, self.all, [])
        for name, one in leaves.items():
            (root / f"{name}.pem").write_text(one.text() + middle.text())
            (root / f"{name}.key").write_text(one.key.path.read_text())
        (root / "anchor.pem").write_text(anchor.text())
        (root / "hosts").write_text("".join(f"127.0.0.1 {n}\n" for n in (HOST, OTHER, WRONG)))


LOCATIONS = """
    root {root}/files;
    keepalive_requests 1000000;
    location = /small {{ return 200 "0123456789"; }}
    location = /tls {{ return 200 "$ssl_protocol $ssl_cipher $ssl_curve $ssl_session_reused \
$ssl_server_name $ssl_client_verify $ssl_client_s_dn $server_protocol\\n"; }}
    location /one/ {{ keepalive_timeout 0; alias {root}/files/; }}
    location /few/ {{ keepalive_requests 7; alias {root}/files/; }}
    location /brief/ {{ keepalive_timeout 1s; alias {root}/files/; }}
    location /origin/ {{ proxy_pass http://127.0.0.1:{origin}/; proxy_http_version 1.1;
        client_max_body_size 200m; proxy_request_buffering off; }}
    location /up/ {{ dav_methods PUT; client_max_body_size 200m; alias {root}/up/; }}
"""

# name, certificate, what else. Each on a port of its own.
SERVERS = [
    ("both", "www", ""),
    ("v12", "www", "ssl_protocols TLSv1.2;"),
    ("v13", "www", "ssl_protocols TLSv1.3;"),
    ("rotated", "rotated", ""),
    ("crew", "www", "ssl_verify_client on; ssl_client_certificate {root}/anchor.pem; "
     "ssl_verify_depth 2;"),
    ("crew12", "www", "ssl_protocols TLSv1.2; ssl_verify_client on; ssl_verify_depth 2; "
     "ssl_client_certificate {root}/anchor.pem;"),
    ("cache12", "www", "ssl_protocols TLSv1.2; ssl_session_tickets off; "
     "ssl_session_cache shared:a:1m;"),
    ("cache13", "www", "ssl_protocols TLSv1.3; ssl_session_tickets off; "
     "ssl_session_cache shared:b:1m;"),
    ("never12", "www", "ssl_protocols TLSv1.2; ssl_session_tickets off; ssl_session_cache off;"),
    ("p384", "www", "ssl_ecdh_curve secp384r1;"),
    ("p384v12", "www", "ssl_protocols TLSv1.2; ssl_ecdh_curve secp384r1;"),
    ("p521", "www", "ssl_ecdh_curve secp521r1;"),
    ("old", "www", "ssl_protocols TLSv1.1; ssl_ciphers ALL:@SECLEVEL=0;"),
    ("cbc", "www", "ssl_protocols TLSv1.2; ssl_ciphers ECDHE-ECDSA-AES128-SHA256;"),
    ("no_secrecy", "rsa", "ssl_protocols TLSv1.2; ssl_ciphers AES128-GCM-SHA256;"),
] + [
    ("c-" + cipher, "rsa" if "RSA-" in cipher and "ECDSA" not in cipher else "www",
     "ssl_protocols TLSv1.2; ssl_ciphers " + cipher + ";")
    for cipher in ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384",
                   "ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-AES128-GCM-SHA256",
                   "ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-CHACHA20-POLY1305")
] + [
    ("c-" + cipher, "www", f"ssl_protocols TLSv1.3; ssl_conf_command Ciphersuites {cipher};")
    for cipher in ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384",
                   "TLS_CHACHA20_POLY1305_SHA256")
]

SERVER = """
server {{
    listen 127.0.0.1:{port} ssl {listen};
    server_name {name};
    ssl_certificate {root}/{certificate}.pem;
    ssl_certificate_key {root}/{certificate}.key;
    {more}
    {locations}
}}
"""


class Served(unittest.TestCase):
    """One nginx for all tests of the file."""

    @classmethod
    def setUpClass(cls):
        if hasattr(Served, "nginx"):
            return
        directory = tempfile.TemporaryDirectory(prefix="mooring-tls-")
        unittest.addModuleCleanup(directory.cleanup)
        Served.root = root = Path(directory.name)
        root.chmod(0o755)
        Papers(root)
        shutil.copy(root / "www.pem", root / "rotated.pem")
        shutil.copy(root / "www.key", root / "rotated.key")
        for name in ("files", "up"):
            (root / name).mkdir()
            (root / name).chmod(0o777)
        (root / "files/big").write_bytes(BIG)
        (root / "files/empty").write_bytes(b"")
        Served.origin = Origin(ORIGIN)
        unittest.addModuleCleanup(cls.origin.__exit__)
        names = [s[0] for s in SERVERS] + ["named13", "named12", "plain", "h2"]
        Served.ports = dict(zip(names, free_ports(len(names))))
        Served.nginx = Nginx(root, cls.config(), cls.ports["both"], workers=2)
        unittest.addModuleCleanup(cls.nginx.close)

    @classmethod
    def config(cls):
        locations = LOCATIONS.format(root=cls.root, origin=cls.origin.port)

        def server(port, certificate, more="", name="_", listen=""):
            if "ssl_protocols" not in more:
                more += "ssl_protocols TLSv1.2 TLSv1.3;"
            return SERVER.format(port=cls.ports[port], certificate=certificate, root=cls.root,
                                 more=more.format(root=cls.root), name=name, listen=listen,
                                 locations=locations)

        http = "".join(server(*one) for one in SERVERS)
        # Several names on one port; the first is who answers to a name nobody knows.
        for version in ("12", "13"):
            for name, certificate in ((HOST, "www"), (OTHER, "other"), (WRONG, "www")):
                http += server("named" + version, certificate,
                               f"ssl_protocols TLSv1.{version[1]};", name)
        http += server("h2", "www", listen="http2")
        return http + f"server {{ listen 127.0.0.1:{cls.ports['plain']}; {locations} }}\n"

    def url(self, server, target, host=HOST, scheme="https"):
        port = server if isinstance(server, int) else self.ports[server]
        return f"{scheme}://{host}:{port}{target}"

    def settings(self, more):
        return {"MOORING_HOSTS_FILE": str(self.root / "hosts"),
                "MOORING_TLS_CA": str(self.root / "anchor.pem"), **more}

    def get(self, *arguments, stdin=b"", **settings):
        """Arguments and URLs; returns the bodies."""
        code, out, err = run(MOORING, "get", "--fail", *arguments, stdin=stdin,
                             **self.settings(settings))
        self.assertEqual((code, err), (0, ""))
        return out

    def refused(self, what, *arguments, **settings):
        """Returns the seconds it took. `what` is in the line that says why."""
        started = time.monotonic()
        code, _, err = run(MOORING, "get", "--fail", *arguments, **self.settings(settings))
        self.assertNotEqual(code, 0, err)
        self.assertGreater(code, 0, "killed by a signal")
        self.assertRegex(err, rf"(?m)^mooring get: .*({what})")
        return time.monotonic() - started

    def load(self, url, *arguments, **settings):
        code, out, err = run(MOORING, "load", url, "--json", *arguments, **self.settings(settings))
        self.assertEqual(code, 0, err)
        return json.loads(out)

    def check_few(self, seen, requests, conns):
        """All went well on so many connections."""
        self.assertEqual((seen["requests"], seen["errors"]), (requests, 0))
        self.assertLessEqual(seen["conns_open"], conns)
        # A conn that is about to change shards when a ticket arrives is closed instead.
        self.assertLessEqual(seen["conns_opened"], conns * 1.5)

    def mate(self):
        return {"MOORING_TLS_CERT": str(self.root / "mate.pem"),
                "MOORING_TLS_KEY": str(self.root / "mate.key")}

    def tls(self, server, host=HOST, **settings):
        """What nginx says of the connection."""
        words = self.get(self.url(server, "/tls", host), **settings).decode().split(" ")
        return dict(zip(("protocol", "cipher", "group", "reused", "name", "verified", "subject",
                         "http"), words))

    def seen_at(self, server, done_before=0):
        return [s for s in self.nginx.seen() if s[0] == str(self.ports[server])][done_before:]


def same(self, got, want):
    """Without printing a hundred megabytes."""
    self.assertEqual((len(got), hashlib.sha256(got).hexdigest()),
                     (len(want), hashlib.sha256(want).hexdigest()))


class Bytes(Served):
    def test_a_hundred_megabytes_down(self):
        for server in ("v12", "v13"):
            with self.subTest(server):
                same(self, self.get(self.url(server, "/big")), BIG)

    def test_a_hundred_megabytes_over_a_closing_connection(self):
        for server in ("v12", "v13"):
            with self.subTest(server):
                same(self, self.get(self.url(server, "/one/big")), BIG)

    def test_a_hundred_megabytes_up(self):
        for server in ("v12", "v13"):
            with self.subTest(server):
                self.get("-X", "PUT", "-d", "@-", self.url(server, f"/up/{server}"), stdin=BIG)
                same(self, (self.root / f"up/{server}").read_bytes(), BIG)

    def test_a_large_body_down_and_up_at_once(self):
        body = pattern(30_000_000)
        for server in ("v12", "v13"):
            with self.subTest(server):
                same(self, self.get("-d", "@-", self.url(server, "/origin/echo"), stdin=body), body)

    def test_every_length_around_a_record(self):
        for server in ("v12", "v13"):
            for length in (0, 1, 16383, 16384, 16385, 32768, 100_000):
                with self.subTest(server, length=length):
                    self.assertTrue(self.get(self.url(server, f"/origin/bytes/{length}")) ==
                                    pattern(length))
                    self.assertTrue(self.get("-d", "@-", self.url(server, "/origin/echo"),
                                             stdin=pattern(length)) == pattern(length))

    def test_chunked_and_in_drops(self):
        for server in ("v12", "v13"):
            with self.subTest(server):
                self.assertTrue(self.get(self.url(server, "/origin/chunked/300000?chunk=7000")) ==
                                pattern(300000))
                self.assertEqual(self.get(self.url(
                    server, "/origin/drip?bytes=40&interval=5")), pattern(40))

    def test_ranges_and_heads(self):
        self.assertEqual(self.get("-H", "Range: bytes=5-9", self.url("both", "/big")), BIG[5:10])
        head = self.get("-i", "-X", "HEAD", self.url("both", "/big"))
        self.assertIn(b"Content-Length: 104857600", head)

    def test_a_body_that_ends_with_the_connection(self):
        for version in ("-tls1_2", "-tls1_3"):
            with self.subTest(version), OpenSSLServer(self.root / "www.pem", self.root / "www.key",
                                                      "-no-CAfile", "-WWW", version,
                                                      cwd=self.root / "files") as server:
                same(self, self.get(self.url(server.port, "/big")), BIG)

    def test_a_body_cut_off_without_a_farewell_is_no_body(self):
        """An attacker can end a TCP connection at any byte, but not say that it ends here."""
        for says_goodbye in (True, False):
            with self.subTest(says_goodbye=says_goodbye):
                with PythonServer(self.root, says_goodbye) as server:
                    if says_goodbye:
                        self.assertEqual(self.get(self.url(server.port, "/")), b"half of it")
                    else:
                        self.refused("ended without", self.url(server.port, "/"))

    def test_byte_by_byte(self):
        """Records arrive in any pieces, those of the handshake included."""
        for server in ("v12", "v13"):
            with self.subTest(server), Relay(self.ports[server], piece=1) as relay:
                target = self.url(relay.port, "/origin/bytes/20000")
                same(self, self.get(target, target, MOORING_USES_MAX="1"), pattern(20000) * 2)

    def test_several_urls_share_a_connection(self):
        before = len(self.seen_at("v13"))
        answers = self.get(*[self.url("v13", "/tls")] * 3).decode().splitlines()
        self.assertEqual(len(answers), 3)
        wait_until(lambda: len(self.seen_at("v13")) >= before + 3, "log")
        code, _, err = run(MOORING, "get", "-v", *[self.url("v13", "/small")] * 3,
                           **self.settings({}))
        self.assertEqual((code, err.count("for a new connection")), (0, 1), err)
        self.assertEqual(err.count("for a reused connection"), 2, err)


class PythonServer:
    """Answers one request with a body that ends with the connection."""

    def __init__(self, root, says_goodbye):
        self.says_goodbye = says_goodbye
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(root / "www.pem", root / "www.key")
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(0.2)
        self.port = self.listener.getsockname()[1]
        self.is_over = False
        self.thread = threading.Thread(target=self.serve)

    def serve(self):
        while not self.is_over:
            try:
                raw, _ = self.listener.accept()
            except OSError:
                continue
            raw.settimeout(WAIT_S)
            try:
                conn = self.context.wrap_socket(raw, server_side=True)
                request = b""
                while not request.endswith(b"\r\n\r\n"):
                    request += conn.recv(4096) or b"\r\n\r\n"
                conn.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf of it")
                if self.says_goodbye:
                    conn.unwrap().close()
                else:
                    conn.close()
            except OSError:
                raw.close()

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.is_over = True
        self.thread.join()
        self.listener.close()


class Conns(Served):
    def test_many_requests_on_few_connections(self):
        for server in ("v12", "v13"):
            with self.subTest(server):
                seen = self.load(self.url(server, "/small"), "-c", "32", "-n", "5000")
                self.check_few(seen, 5000, 32)

    def test_a_server_that_ends_connections_costs_no_request(self):
        for target in ("/few/empty", "/one/empty"):
            with self.subTest(target):
                seen = self.load(self.url("both", target), "-c", "8", "-n", "700")
                self.assertEqual((seen["requests"], seen["errors"]), (700, 0))

    def test_idle_connections_that_the_server_closes_cost_no_request(self):
        seen = self.load(self.url("both", "/brief/empty"), "-c", "4", "-n", "9", "--rate", "3")
        self.assertEqual((seen["requests"], seen["errors"]), (9, 0))

    def test_reloads_and_a_new_certificate_under_load_lose_nothing(self):
        load = subprocess.Popen(
            [MOORING, "load", self.url("rotated", "/small"), "-c", "16", "-d", "4", "--json"],
            stdout=subprocess.PIPE, env=environment(**self.settings({})))
        for certificate in ("next", "www", "next"):
            time.sleep(0.9)
            for end in ("pem", "key"):
                shutil.copy(self.root / f"{certificate}.{end}", self.root / f"rotated.{end}")
            self.nginx.reload()
        out, _ = load.communicate(timeout=WAIT_S)
        seen = json.loads(out)
        self.assertEqual(seen["errors"], 0, seen)
        self.assertGreater(seen["requests"], 500)
        self.assertGreater(seen["conns_opened"], 16)  # the old workers went
        text = subprocess.run(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{self.ports['rotated']}"],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=WAIT_S, check=False).stdout
        self.assertRegex(text.decode(), r"subject=.*next")


class Handshakes(Served):
    def test_what_is_negotiated(self):
        seen = self.tls("both")
        self.assertEqual(seen["protocol"], "TLSv1.3")
        self.assertEqual(seen["group"], "X25519")
        self.assertEqual(seen["name"], HOST)
        self.assertEqual(seen["http"], "HTTP/1.1\n")
        self.assertEqual(self.tls("v12")["protocol"], "TLSv1.2")
        self.assertEqual(self.tls("v13")["protocol"], "TLSv1.3")

    def test_no_name_is_sent_for_an_address(self):
        self.assertEqual(self.tls("both", "127.0.0.1")["name"], "")

    def test_a_name_of_our_own_is_sent_and_verified(self):
        seen = self.tls("both", "127.0.0.1", MOORING_TLS_SERVER_NAME=HOST)
        self.assertEqual(seen["name"], HOST)
        self.refused("not for this host", self.url("both", "/small"), MOORING_TLS_SERVER_NAME=OTHER)

    def test_a_server_that_also_speaks_http2_gets_what_is_asked_for(self):
        self.assertEqual(self.tls("h2")["http"], "HTTP/2.0\n")
        old = self.tls("h2", MOORING_HTTP_VERSION="1.1")
        self.assertEqual(old["http"], "HTTP/1.1\n")

    def test_ciphers_one_by_one(self):
        for name, _, _ in SERVERS:
            if name.startswith("c-"):
                with self.subTest(name):
                    self.assertEqual(self.tls(name)["cipher"], name[2:])

    def test_another_group_than_ours(self):
        self.assertEqual(self.tls("p384")["group"], "secp384r1")
        self.assertEqual(self.tls("p384")["protocol"], "TLSv1.3")
        self.assertEqual(self.tls("p384v12")["group"], "secp384r1")

    def test_versions_and_ciphers_we_do_not_speak(self):
        for server, what in (("old", "protocol_version"), ("cbc", "handshake_failure"),
                             ("no_secrecy", "handshake_failure")):
            with self.subTest(server):
                self.assertLess(self.refused(what, self.url(server, "/small")), WAIT_S / 2)

    def test_version_min(self):
        newer = {"MOORING_TLS_VERSION_MIN": "1.3"}
        self.assertEqual(self.tls("v13", **newer)["protocol"], "TLSv1.3")
        self.refused("protocol_version", self.url("v12", "/small"), **newer)
        self.refused("expected 1.2 or 1.3", self.url("v13", "/small"),
                     MOORING_TLS_VERSION_MIN="1.1")

    def test_roots_of_the_system_do_not_include_ours(self):
        code, _, err = run(MOORING, "get", self.url("both", "/small"),
                           MOORING_HOSTS_FILE=str(self.root / "hosts"))
        self.assertNotEqual(code, 0)
        self.assertRegex(err, "(?m)^mooring get: .*no trusted authority")

    def test_a_directory_of_roots(self):
        directory = self.root / "roots"
        directory.mkdir(exist_ok=True)
        shutil.copy(self.root / "anchor.pem", directory / "one.pem")
        self.assertEqual(self.get(self.url("both", "/small"), MOORING_TLS_CA=str(directory)),
                         b"0123456789")

    def test_plain_http_where_tls_is_expected(self):
        took = self.refused("not TLS|no TLS|not speak TLS|plain", self.url("plain", "/small"))
        self.assertLess(took, WAIT_S / 2)

    def test_tls_where_plain_http_is_expected(self):
        self.refused("400", self.url("both", "/small", scheme="http"))
        with OpenSSLServer(self.root / "www.pem", self.root / "www.key", "-no-CAfile") as server:
            self.refused("before any byte of a reply|reset",
                         self.url(server.port, "/small", scheme="http"))

    def test_a_server_that_accepts_and_stays_silent(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            took = self.refused("handshake|secure the connection", self.url(port, "/"),
                                MOORING_CONNECT_TIMEOUT_MS="400")
        self.assertGreater(took, 0.35)
        self.assertLess(took, 4)

    def test_a_server_that_ends_in_the_handshake(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            over = threading.Event()

            def hang_up():
                listener.settimeout(0.2)
                while not over.is_set():
                    try:
                        conn, _ = listener.accept()
                        conn.recv(100)
                        conn.close()
                    except OSError:
                        pass

            thread = threading.Thread(target=hang_up)
            thread.start()
            try:
                took = self.refused("handshake|secure the connection", self.url(listener.getsockname()[1], "/"))
            finally:
                over.set()
                thread.join()
        self.assertLess(took, WAIT_S / 2)

    def test_a_port_where_nobody_listens(self):
        s, port = closed_port()
        with s:
            self.refused("connect", self.url(port, "/"))


class ClientCertificate(Served):
    def test_shown_when_asked_for(self):
        for server in ("crew", "crew12"):
            with self.subTest(server):
                seen = self.tls(server, **self.mate())
                self.assertEqual((seen["verified"], seen["subject"]), ("SUCCESS", "CN=mate"))

    def test_missing(self):
        for server in ("crew", "crew12"):
            with self.subTest(server):
                self.refused("400", self.url(server, "/small"))

    def test_under_load(self):
        seen = self.load(self.url("crew", "/small"), "-c", "8", "-n", "300", MOORING_USES_MAX="3",
                         **self.mate())
        self.assertEqual((seen["requests"], seen["errors"]), (300, 0))


class Resumption(Served):
    def reused(self, server, before):
        words = [s[2] for s in self.seen_at(server, before)]
        return words.count("r") / len(words)

    def test_nearly_all_handshakes(self):
        for server in ("v12", "v13", "cache12", "cache13"):
            with self.subTest(server):
                before = len(self.seen_at(server))
                seen = self.load(self.url(server, "/small"), "-c", "4", "-n", "1500",
                                 MOORING_USES_MAX="1", MOORING_CONNS_MIN_IDLE="0")
                self.assertEqual((seen["requests"], seen["errors"]), (1500, 0))
                wait_until(lambda: len(self.seen_at(server, before)) >= 1500, "access log")
                self.assertGreater(self.reused(server, before), 0.99)

    def test_none_without_tickets(self):
        before = len(self.seen_at("v13"))
        self.load(self.url("v13", "/small"), "-c", "2", "-n", "40", MOORING_USES_MAX="1",
                  MOORING_TLS_TICKETS_MAX="0")
        wait_until(lambda: len(self.seen_at("v13", before)) >= 40, "access log")
        self.assertEqual(self.reused("v13", before), 0)

    def test_a_server_that_resumes_nothing(self):
        seen = self.load(self.url("never12", "/small"), "-c", "2", "-n", "40",
                         MOORING_USES_MAX="1")
        self.assertEqual((seen["requests"], seen["errors"]), (40, 0))

    def test_a_server_that_forgot_the_tickets(self):
        """Its keys are new after a reload: a refused ticket costs a full handshake, no request."""
        load = subprocess.Popen(
            [MOORING, "load", self.url("v13", "/small"), "-c", "4", "-d", "2", "--json"],
            stdout=subprocess.PIPE, env=environment(**self.settings({"MOORING_USES_MAX": "1"})))
        time.sleep(1)
        self.nginx.reload()
        out, _ = load.communicate(timeout=WAIT_S)
        self.assertEqual(json.loads(out)["errors"], 0, out)

    def test_not_across_hosts(self):
        """Servers refuse another host's session, too, so what counts is that we offer none."""
        for server in ("named12", "named13"):
            with self.subTest(server), Relay(self.ports[server]) as relay:
                names = [HOST, OTHER] * 3
                answers = self.get(*[self.url(relay.port, "/tls", name) for name in names],
                                   MOORING_USES_MAX="1").decode()
                seen = [line.split(" ") for line in answers.splitlines()]
                self.assertEqual([s[4] for s in seen], names)
                self.assertEqual([s[3] for s in seen], [".", ".", "r", "r", "r", "r"])
                self.assertEqual([(h.name, h.brings_session) for h in relay.hellos],
                                 list(zip(names, [False] * 2 + [True] * 4)))

    def test_never_to_a_host_whose_certificate_fails(self):
        for server in ("named12", "named13"):
            with self.subTest(server), Relay(self.ports[server]) as relay:
                urls = [self.url(relay.port, "/small", name) for name in (HOST, WRONG) * 2]
                code, out, err = run(MOORING, "get", *urls,
                                     **self.settings({"MOORING_USES_MAX": "1"}))
                self.assertNotEqual(code, 0)
                self.assertEqual(out, b"0123456789" * 2)
                self.assertEqual(len(re.findall(r"(?m)^mooring get: .*not for this host", err)), 2, err)
                wrong = [h.brings_session for h in relay.hellos if h.name == WRONG]
                self.assertEqual(set(wrong), {False})
                self.assertEqual([h.brings_session for h in relay.hellos if h.name == HOST],
                                 [False, True])

    def test_our_certificate_goes_along(self):
        """A resumed conn is still that of the client who proved who it was."""
        for server in ("crew", "crew12"):
            with self.subTest(server):
                answers = self.get(*[self.url(server, "/tls")] * 3, MOORING_USES_MAX="1",
                                   **self.mate()).decode().splitlines()
                self.assertEqual([a.split(" ")[5] for a in answers], ["SUCCESS"] * 3)


HAPROXY_CONF = """
global
    maxconn 500
    ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
    mode http
    timeout client 30s
    timeout server 30s
    timeout connect 5s
    timeout http-keep-alive 1s
frontend both
    bind 127.0.0.1:{both} ssl crt {root}/www.both
    http-request return status 200 content-type text/plain lf-string "%[ssl_fc_protocol] \
%[ssl_fc_is_resumed] %[ssl_fc_sni]"
frontend v12
    bind 127.0.0.1:{v12} ssl crt {root}/www.both ssl-max-ver TLSv1.2
    http-request return status 200 content-type text/plain lf-string "%[ssl_fc_protocol] \
%[ssl_fc_is_resumed] %[ssl_fc_sni]"
frontend crew
    bind 127.0.0.1:{crew} ssl crt {root}/www.both verify required ca-file {root}/anchor.pem
    http-request return status 200 content-type text/plain lf-string "%[ssl_c_s_dn(cn)]"
"""


@unittest.skipUnless(HAPROXY, "haproxy is not installed")
class Haproxy(Served):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        root = cls.root
        (root / "www.both").write_text((root / "www.pem").read_text() +
                                       (root / "www.key").read_text())
        names = ("both", "v12", "crew")
        cls.there = dict(zip(names, free_ports(len(names))))
        (root / "haproxy.cfg").write_text(HAPROXY_CONF.format(root=root, **cls.there))
        cls.haproxy = subprocess.Popen([HAPROXY, "-db", "-f", root / "haproxy.cfg"],
                                       stderr=subprocess.DEVNULL)
        cls.addClassCleanup(cls.stop)
        wait_until(lambda: is_listening(cls.there["both"]) or cls.haproxy.poll() is not None,
                   "haproxy")

    @classmethod
    def stop(cls):
        cls.haproxy.send_signal(signal.SIGTERM)
        cls.haproxy.wait(WAIT_S)

    def test_both_versions(self):
        self.assertEqual(self.get(self.url(self.there["both"], "/")), f"TLSv1.3 0 {HOST}".encode())
        self.assertEqual(self.get(self.url(self.there["v12"], "/")), f"TLSv1.2 0 {HOST}".encode())

    def test_resumption(self):
        for name in ("both", "v12"):
            with self.subTest(name):
                out = self.get(*[self.url(self.there[name], "/")] * 4, MOORING_USES_MAX="1",
                               MOORING_CONNS_MIN_IDLE="0").decode()
                self.assertEqual(re.findall(r" (\d) ", out), ["0", "1", "1", "1"])

    def test_under_load(self):
        self.check_few(self.load(self.url(self.there["both"], "/"), "-c", "16", "-n", "3000"),
                       3000, 16)

    def test_client_certificate(self):
        self.assertEqual(self.get(self.url(self.there["crew"], "/"), **self.mate()), b"mate")
        self.refused("certificate_required", self.url(self.there["crew"], "/"))


if __name__ == "__main__":
    if not NGINX or not shutil.which("openssl"):
        print("nginx or openssl is not installed", file=sys.stderr)
        sys.exit(77)
    unittest.main()
