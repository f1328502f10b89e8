"""The program against a real server: nginx on loopback, started here on a free port.

Usage: nginx_test.py MOORING [unittest arguments]. Skipped (77) where nginx is not installed.
"""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

PROGRAM = sys.argv.pop(1)
WAIT_S = 120
NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")

CONFIG = """
worker_processes 1;
daemon off;
{user}
pid {root}/nginx.pid;
error_log {root}/error.log warn;
events {{ worker_connections 2048; }}
http {{
    access_log off;
    client_body_temp_path {root}/body; proxy_temp_path {root}/proxy;
    fastcgi_temp_path {root}/fastcgi; uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        root {root}/files;
        keepalive_requests 1000000;
        location /small {{ return 200 "0123456789"; }}
        location /few/ {{ keepalive_requests 7; alias {root}/files/; }}
        location /brief/ {{ keepalive_timeout 1s; alias {root}/files/; }}
        location /gz/ {{ gzip on; gzip_types *; gzip_min_length 1; alias {root}/files/; }}
        location /moved {{ return 302 /small; }}
        location /secret/ {{ auth_basic "here"; auth_basic_user_file {root}/users; alias {root}/files/; }}
    }}
}}
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def digest(data):
    return hashlib.sha256(data).hexdigest()


class Nginx(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.root = tempfile.mkdtemp(prefix="mooring-nginx-")
        os.chmod(cls.root, 0o755)
        os.mkdir(cls.root + "/files")
        cls.big = os.urandom(1 << 20) * 100
        cls.write("big", cls.big)
        cls.write("text", b"the same line over and over\n" * 4096)
        cls.write("empty", b"")
        with open(cls.root + "/users", "w", encoding="ascii") as f:
            f.write("ahoy:{PLAIN}se@cret\n")
        cls.port = free_port()
        user = "user nobody nogroup;" if os.getuid() == 0 else ""
        with open(cls.root + "/nginx.conf", "w", encoding="ascii") as f:
            f.write(CONFIG.format(root=cls.root, port=cls.port, user=user))
        cls.server = subprocess.Popen([NGINX, "-c", cls.root + "/nginx.conf", "-p", cls.root],
                                      stderr=subprocess.DEVNULL)
        cls.base = f"http://127.0.0.1:{cls.port}"
        end = time.monotonic() + WAIT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", cls.port), 1).close()
                break
            except OSError:
                if cls.server.poll() is not None or time.monotonic() > end:
                    raise AssertionError(f"nginx does not start: see {cls.root}/error.log")
                time.sleep(0.02)

    @classmethod
    def tearDownClass(cls):
        cls.server.send_signal(signal.SIGTERM)
        cls.server.wait(WAIT_S)
        shutil.rmtree(cls.root)

    @classmethod
    def write(cls, name, data):
        with open(f"{cls.root}/files/{name}", "wb") as f:
            f.write(data)

    def run_program(self, *arguments, status=0, env=None):
        done = subprocess.run([PROGRAM, *arguments], capture_output=True, timeout=WAIT_S,
                              env={**os.environ, **(env or {})})
        self.assertEqual(done.returncode, status, done.stderr.decode(errors="replace"))
        return done.stdout

    def get(self, target, *options, **more):
        return self.run_program("get", *options, self.base + target, **more)

    def load(self, target, *options):
        return json.loads(self.run_program("load", self.base + target, "--json", *options))

    def test_hundred_megabytes_arrive_byte_exact(self):
        self.assertEqual(digest(self.get("/big")), digest(self.big))

    def test_the_same_with_newer_kernel_features_masked(self):
        got = self.get("/big", env={"MOORING_IO_MASK": "6.1"})
        self.assertEqual(digest(got), digest(self.big))

    def test_a_file_is_written_whole(self):
        path = self.root + "/out"
        self.get("/big", "-o", path)
        with open(path, "rb") as f:
            self.assertEqual(digest(f.read()), digest(self.big))

    def test_small_empty_and_missing(self):
        self.assertEqual(self.get("/small"), b"0123456789")
        self.assertEqual(self.get("/empty"), b"")
        self.assertIn(b"404", self.get("/nowhere"))
        self.get("/nowhere", "--fail", status=22)

    def test_head_and_ranges(self):
        head = self.get("/big", "-i", "-X", "HEAD")
        self.assertIn(b"Content-Length: 104857600", head)
        part = self.get("/big", "-H", "Range: bytes=1000-1999")
        self.assertEqual(part, self.big[1000:2000])

    def test_chunked_by_compression(self):
        import gzip

        answer = self.get("/gz/text", "-i", "-H", "Accept-Encoding: gzip")
        head, body = answer.split(b"\r\n\r\n", 1)
        self.assertIn(b"chunked", head.lower())
        self.assertEqual(gzip.decompress(body), b"the same line over and over\n" * 4096)

    def test_userinfo_is_basic_authorization(self):
        url = f"http://ahoy:se%40cret@127.0.0.1:{self.port}/secret/text"
        self.assertIn(b"over and over", self.run_program("get", url))
        self.assertIn(b"401", self.get("/secret/text"))

    def test_many_requests_on_few_conns(self):
        seen = self.load("/small", "-c", "64", "-n", "20000")
        self.assertEqual((seen["requests"], seen["errors"]), (20000, 0))
        self.assertLessEqual(seen["conns_opened"], 64)
        self.assertGreater(seen["reuse"], 0.99)

    def test_a_server_that_ends_conns_costs_no_request(self):
        seen = self.load("/few/empty", "-c", "16", "-n", "3000")
        self.assertEqual((seen["requests"], seen["errors"]), (3000, 0))
        self.assertGreaterEqual(seen["conns_opened"], 3000 // 7)

    def test_idle_conns_that_the_server_closes_cost_no_request(self):
        # Slower than the server's patience: each round meets conns that are gone.
        seen = self.load("/brief/empty", "-c", "4", "-n", "12", "--rate", "3")
        self.assertEqual((seen["requests"], seen["errors"]), (12, 0))

    def test_a_reload_under_load_loses_nothing(self):
        load = subprocess.Popen([PROGRAM, "load", self.base + "/small", "-c", "32", "-d", "3", "--json"],
                                stdout=subprocess.PIPE)
        for _ in range(2):
            time.sleep(0.8)
            self.server.send_signal(signal.SIGHUP)
        out, _ = load.communicate(timeout=WAIT_S)
        seen = json.loads(out)
        self.assertEqual(seen["errors"], 0, seen)
        self.assertGreater(seen["requests"], 1000)


if __name__ == "__main__":
    if not NGINX:
        print("nginx is not installed", file=sys.stderr)
        sys.exit(77)
    unittest.main()
