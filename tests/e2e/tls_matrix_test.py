#!/usr/bin/env python3
"""Every certificate of tls_certs.py, shown to `mooring get` by nginx and by openssl s_server.

Usage: tls_matrix_test.py PATH-OF-MOORING [unittest arguments]
Each is shown over TLS 1.2 and 1.3 by nginx, and over 1.3 by s_server, where `openssl s_client` looks
at it, too: wherever the two disagree, the case has to say why. MOORING_TEST_CASES, a regular
expression, leaves out the cases it does not match.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mooring_case import WAIT_S, closed_port, run
from tls_certs import REASONS, Harbour
from tls_servers import NGINX, Nginx, OpenSSLServer, free_ports

MOORING = sys.argv.pop(1)
HAS_OPTIONS = b"--cacert" in run(MOORING, "get", "--help")[1]
WANTED = os.environ.get("MOORING_TEST_CASES", "")
ANSWER = {"nginx": b"aboard\n", "s_server": b"s_server -accept"}

NGINX_SERVER = """
server {{
    listen {address}:{port} ssl;
    ssl_protocols {version};
    ssl_ciphers ALL:@SECLEVEL=0;
    ssl_certificate {chain};
    ssl_certificate_key {key};
    {more}
    location / {{ return 200 "aboard\\n"; }}
}}
"""


def verbose(text):
    if os.environ.get("MOORING_TEST_VERBOSE"):
        print(text.rstrip(), file=sys.stderr)


def address_of(case):
    return "[::1]" if case.host.startswith("[") else "127.0.0.1"


def nginx_server(case, port, version):
    more = ""
    if case.staple:
        more += f"ssl_stapling on; ssl_stapling_file {case.staple.path};\n"
    if case.client_anchors:
        more += f"ssl_verify_client on; ssl_client_certificate {case.chain_file}.clients;\n"
    return NGINX_SERVER.format(address=address_of(case), port=port, version=version,
                               chain=case.chain_file, key=case.key.path, more=more)


class Matrix:
    """All verdicts, found out as fast as two CPUs can."""

    def __init__(self):
        self.directory = tempfile.TemporaryDirectory(prefix="mooring-tls-")
        self.root = Path(self.directory.name)
        self.root.chmod(0o755)
        started = time.monotonic()
        self.harbour = Harbour()
        self.harbour.make(self.root)
        self.cases = [c for c in self.harbour.cases if re.search(WANTED, c.name)]
        names = sorted({c.host.rstrip(".").lower() for c in self.cases if "[" not in c.host})
        self.hosts = self.root / "hosts"
        self.hosts.write_text("".join(f"127.0.0.1 {n}\n" for n in names if n != "127.0.0.1"))
        for case in self.cases:
            if case.client_anchors:
                Path(f"{case.chain_file}.clients").write_text(
                    "".join(c.text() for c in case.client_anchors))
        self.made_s = time.monotonic() - started
        self.results, self.agreement, self.nginx = {}, {}, None
        self.socket, self.closed = closed_port()
        try:
            self.look()
        finally:
            self.close()
        self.took_s = time.monotonic() - started

    def close(self):
        if self.nginx:
            self.nginx.close()
        self.socket.close()

    def look(self):
        online = [c for c in self.cases if not c.offline]
        self.ports = {}
        if online and NGINX:
            wanted = [(c.name, v) for c in online for v in c.versions]
            self.ports = dict(zip(wanted, free_ports(len(wanted))))
            by_name = {c.name: c for c in online}
            http = "".join(nginx_server(by_name[name], port, version)
                           for (name, version), port in self.ports.items())
            self.nginx = Nginx(self.root, http, self.ports[wanted[0]]
                               if address_of(online[0]) == "127.0.0.1" else 0)
        with ThreadPoolExecutor(3) as pool:
            for case, result, agreed in pool.map(self.look_at, self.cases):
                self.results[case.name] = result
                self.agreement[case.name] = agreed
        self.log = self.nginx.seen() if self.nginx else []

    def look_at(self, case):
        if case.offline:
            return case, {"nobody": self.get(case, self.closed)}, None
        result = {f"nginx {v}": self.get(case, self.ports[case.name, v])
                  for v in case.versions if NGINX}
        options = []
        if case.versions == ("TLSv1.2",):
            options += ["-tls1_2"]
        if case.staple:
            options += ["-status_file", case.staple.path]
        if case.client_anchors:
            options += ["-Verify", "1", "-verify_return_error", "-verify_quiet", "-CAfile",
                        f"{case.chain_file}.clients"]
        else:
            options += ["-no-CAfile"]
        with OpenSSLServer(case.chain_file, case.key.path, *options,
                           host=address_of(case)) as server:
            result["s_server"] = self.get(case, server.port)
            agreed = self.openssl_accepts(case, server.port)
        return case, result, agreed

    def get(self, case, port):
        arguments, settings = program_settings(case, self.root)
        started = time.monotonic()
        try:
            code, out, err = run(
                MOORING, "get", "--fail", "--timeout", "15s", *arguments,
                f"https://{case.host}:{port}/", MOORING_HOSTS_FILE=str(self.hosts),
                MOORING_LOG="warn", **settings)
        except subprocess.TimeoutExpired as e:
            code, out, err = -1, b"", f"hangs: {e}"
        seconds = time.monotonic() - started
        verbose(f"{case.name} at {port} in {seconds:.2f} s: {code} {err}")
        return code, out, err, seconds

    def openssl_accepts(self, case, port):
        host = case.host.strip("[]")
        is_address = re.fullmatch(r"[\d.]+|[\da-f:]+", host)
        command = ["openssl", "s_client", "-connect", f"{address_of(case)}:{port}", "-quiet",
                   "-verify_return_error", "-CAfile", case.anchors_file, "-no-CApath",
                   "-no-CAstore"]
        command += ["-verify_ip", host] if is_address else ["-verify_hostname", host,
                                                            "-servername", host.rstrip(".")]
        if case.client:
            command += ["-cert", case.client.path, "-key", case.client.key.path]
        done = subprocess.run(
            command, input=b"GET / HTTP/1.0\r\n\r\n", stdout=subprocess.PIPE, timeout=WAIT_S,
            stderr=subprocess.PIPE, check=False,
            env={**os.environ, "OPENSSL_CONF": str(self.root / "client.cnf")})
        accepted = b"HTTP/1.0 200" in done.stdout
        verbose(f"{case.name} by s_client: {accepted} {done.stderr.decode()[-200:]}")
        return accepted and (not case.staple or self.openssl_takes_staple(case))

    def openssl_takes_staple(self, case):
        issuer = case.chain[0].issuer.path
        done = subprocess.run(
            ["openssl", "ocsp", "-respin", case.staple.path, "-issuer", issuer, "-cert",
             case.chain[0].path, "-CAfile", case.anchors_file, "-verify_other", issuer,
             "-no_nonce"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
            timeout=WAIT_S)
        return b"Response verify OK" in done.stdout and b".pem: good" in done.stdout


def program_settings(case, root):
    """What the case says, as options of the program; as variables where it has no such options."""
    key = case.client_key or (case.client and case.client.key)
    key = key.path if hasattr(key, "path") else root / str(key)
    said = [("--cacert", "MOORING_TLS_CA", [case.anchors_file])]
    if case.client:
        said += [("--cert", "MOORING_TLS_CERT", [case.client.path]),
                 ("--key", "MOORING_TLS_KEY", [key])]
    said += [("--pin", "MOORING_TLS_PINS", case.pins)]
    settings = {"MOORING_TLS_PIN_CHAIN": "true"} if case.pin_chain else {}
    options = ["--insecure"] if case.insecure and HAS_OPTIONS else []
    if case.insecure and not HAS_OPTIONS:
        settings["MOORING_TLS_INSECURE"] = "true"
    for option, variable, values in said:
        if HAS_OPTIONS:
            options += [word for value in values for word in (option, str(value))]
        elif values:
            settings[variable] = ",".join(map(str, values))
    return options, settings


class TlsMatrix(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.matrix = Matrix()
        cls.addClassCleanup(cls.matrix.directory.cleanup)
        print(f"{len(cls.matrix.cases)} cases made in {cls.matrix.made_s:.1f} s, "
              f"looked at in {cls.matrix.took_s - cls.matrix.made_s:.1f} s", file=sys.stderr)

    def check(self, case):
        for where, (code, out, err, seconds) in self.matrix.results[case.name].items():
            with self.subTest(where):
                self.assertLess(seconds, 15, err)
                if case.accepted:
                    self.check_accepted(case, ANSWER[where.split()[0]], code, out, err)
                else:
                    self.check_refused(case, code, out, err)
        if not case.offline:
            agrees = self.matrix.agreement[case.name] == case.accepted
            self.assertEqual(agrees, not case.differs, "OpenSSL: " + (
                "now agrees; it did not because " + case.differs if agrees else "disagrees"))

    def check_accepted(self, case, answer, code, out, err):
        self.assertEqual(code, 0, err)
        self.assertIn(answer, out)
        if case.warns:
            self.assertRegex(err, case.warns)
        else:
            self.assertEqual(err, "")

    def check_refused(self, case, code, out, err):
        """One line that says why; no request was made, so nothing came back."""
        self.assertEqual(out, b"")
        self.assertRegex(err, r"(?m)^mooring get: ")
        why = re.search(r"(?m)^mooring get: (.*)", err).group(1)
        why = re.sub(r"https?://\S+|/\S+/", "", why)  # names of hosts and files tell too much
        classes = "|".join(REASONS[reason] for reason in case.reason.split("|"))
        self.assertRegex(why, classes)
        self.assertNotIn(code, (0, 28), err)  # nor a timeout
        self.assertGreater(code, 0, "killed by a signal")

    def test_servers_that_were_refused_saw_no_request(self):
        asked = {int(port) for port, *_ in self.matrix.log}
        refused = {(c.name, v): self.matrix.ports.get((c.name, v)) for c in self.matrix.cases
                   for v in c.versions if not c.accepted and c.reason != "client"}
        self.assertEqual([name for name, port in refused.items() if port in asked], [])


def add_tests():
    for case in Harbour().cases:
        if re.search(WANTED, case.name):
            def test(self, name=case.name):
                self.check(next(c for c in self.matrix.cases if c.name == name))
            setattr(TlsMatrix, "test_" + case.name.replace("-", "_"), test)


add_tests()
if __name__ == "__main__":
    if not shutil.which("openssl"):
        print("openssl is not installed", file=sys.stderr)
        sys.exit(77)
    if not NGINX:
        print("nginx is not installed: s_server only", file=sys.stderr)
    unittest.main()
