"""Real PostgreSQL servers and the program that drives a pool, for the live tests.

Servers run as an unprivileged user in a temporary directory, listen on loopback only, and end with the test,
also when it is killed.
"""

import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.parse
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "e2e"))
from tls_servers import free_ports  # noqa: E402

ACTOR = sys.argv[1] if len(sys.argv) > 1 else ""
SERVER = sys.argv[2] if len(sys.argv) > 2 else ""
WAIT_S = 60  # far above what anything here takes
NOBODY = 65534
SECRET = "it's a s3cret/%"

_libc = ctypes.CDLL(None, use_errno=True)


def quoted(text):
    return urllib.parse.quote(text, safe="")


def become_nobody():
    """In the child: unprivileged, its own process group, gone when the test is."""
    os.setsid()
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    _libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG; after setuid, which clears it


def wait_until(true, what):
    end = time.monotonic() + WAIT_S
    while not true():
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {WAIT_S} s")
        time.sleep(0.01)


class Postgres:
    """One server: superuser admin by its socket, everybody else by password over TCP."""

    CONF = """
listen_addresses = '{address}'
port = {port}
unix_socket_directories = '{root}'
max_connections = 60
fsync = off
full_page_writes = off
shared_buffers = 4MB
autovacuum = off
log_connections = on
wal_level = replica
max_wal_senders = 4
wal_keep_size = 32MB
password_encryption = 'scram-sha-256'
{more}
"""
    HBA = """
local all admin trust
local all all scram-sha-256
local replication admin trust
{tls}all all 127.0.0.0/8 scram-sha-256
"""

    def __init__(self, root, port, address="127.0.0.1", more="", tls=False, base=None):
        self.bin = Path(SERVER).resolve().parent
        self.root, self.port, self.address = Path(root), port, address
        self.process = None
        self.root.mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(self.root, NOBODY, NOBODY)
        self.data = self.root / "data"
        if base:
            self.run("pg_basebackup", "-h", base.root, "-p", str(base.port), "-U", "admin", "-D", self.data,
                     "-R", "-X", "stream", "-c", "fast")
        else:
            self.run("initdb", "-D", self.data, "-U", "admin", "-A", "trust", "-N", "--no-locale", "-E", "UTF8")
        self.write("postgresql.conf", self.CONF.format(address=address, port=port, root=root, more=more))
        self.write("pg_hba.conf", self.HBA.format(tls="hostssl " if tls else "host "))

    def run(self, program, *words):
        done = subprocess.run([self.bin / program, *words], preexec_fn=become_nobody, cwd=self.root,
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=WAIT_S, check=False)
        if done.returncode:
            raise AssertionError(f"{program}: {done.stdout.decode()}{done.stderr.decode()}")
        return done.stdout.decode()

    def write(self, name, text):
        path = self.data / name
        path.write_text(text)
        if os.geteuid() == 0:
            os.chown(path, NOBODY, NOBODY)
        path.chmod(0o600)

    def start(self, wait=True):
        with open(self.root / "log", "a", encoding="utf-8") as log:
            self.process = subprocess.Popen([SERVER, "-D", self.data], preexec_fn=become_nobody, cwd=self.root,
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        if wait:
            self.wait()
        return self

    def serves(self):
        if self.process.poll() is not None:
            raise AssertionError("postgres ended: " + self.log()[-2000:])
        return subprocess.run([self.bin / "pg_isready", "-q", "-h", self.root, "-p", str(self.port)],
                              check=False).returncode == 0

    def wait(self):
        wait_until(self.serves, "postgres")

    def log(self):
        return (self.root / "log").read_text(errors="replace")

    def sql(self, text, database="postgres"):
        return self.run("psql", "-h", self.root, "-p", str(self.port), "-U", "admin", "-AtqX", "-v",
                        "ON_ERROR_STOP=1", "-c", text, database).strip()

    def stop(self, how=signal.SIGINT):
        """SIGINT: fast, with last words to everybody; SIGKILL: at once, with none."""
        if self.process and self.process.poll() is None:
            if how == signal.SIGKILL:
                os.killpg(self.process.pid, how)
            else:
                self.process.send_signal(how)
            self.process.wait(WAIT_S)

    def close(self):
        if self.process and self.process.poll() is None:
            # Its children are process groups of their own: only a server that stops itself takes them along.
            self.process.send_signal(signal.SIGQUIT)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(WAIT_S)

    def children(self):
        """Pids of the server's processes."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def kill_all(self):
        """Every process at once, as when a machine loses power."""
        pids = [self.process.pid, *self.children()]
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait(WAIT_S)
        wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), "the end of the server")

    def url(self, host=None, user="app", password=SECRET, query="", database="postgres"):
        who = user + (":" + quoted(password) if password else "")
        return f"postgres://{who}@{host or self.address}:{self.port}/{database}" + (f"?{query}" if query else "")


class Actor:
    """The program; each method is one of its lines."""

    def __init__(self, **environment):
        self.process = subprocess.Popen(
            [ACTOR], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "HOME": "/nonexistent", **environment},
            preexec_fn=lambda: _libc.prctl(1, signal.SIGKILL))

    def ask(self, *fields, wait=WAIT_S):
        line = "\t".join(str(f) for f in fields)
        self.process.stdin.write((line + "\n").encode())
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], wait)
        answer = self.process.stdout.readline().decode() if ready else ""
        if not answer:
            raise AssertionError(f"{line}: no answer, program {self.process.poll()}")
        return answer.rstrip("\n").split("\t")

    def must(self, *fields):
        answer = self.ask(*fields)
        if answer[0] not in ("ok", "row"):
            raise AssertionError(f"{fields}: {answer}")
        return answer

    def open(self, url, **options):
        self.must("open", url, *(f"{k}={v}" for k, v in options.items()))

    def acquire(self, name="a", ms=20000):
        """The server's process."""
        return int(self.must("acquire", name, ms)[1])

    def value(self, sql, name="a"):
        answer = self.must("exec", name, sql)
        return answer[1] if answer[0] == "row" else None

    def release(self, name="a", how="reuse"):
        self.must("release", name, how)

    def stats(self):
        return json.loads(self.ask("stats")[0])

    def events(self):
        return json.loads(self.ask("events")[0])

    def close(self):
        """Its exit status: not 0 if something of the pool was left, or a sanitizer complains."""
        self.process.stdin.close()
        try:
            status = self.process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self.process.stdout.close()
        return status


class Case(unittest.TestCase):
    """A temporary directory and one server for the whole class, an actor for each test."""

    MORE, TLS = "", False
    environment = {}

    @classmethod
    def setUpClass(cls):
        cls.root = Path(tempfile.mkdtemp(prefix="mooring-pg-"))
        cls.root.chmod(0o755)
        cls.addClassCleanup(shutil.rmtree, cls.root, ignore_errors=True)
        cls.port, = free_ports(1)
        cls.server = Postgres(cls.root / "server", cls.port, more=cls.MORE, tls=cls.TLS)
        cls.addClassCleanup(cls.server.close)
        cls.prepare_server()
        cls.server.start()
        cls.server.sql(f"create role app login password '{SECRET.replace(chr(39), chr(39) * 2)}'")
        cls.server.sql("grant all on schema public to app")

    @classmethod
    def prepare_server(cls):
        pass

    def setUp(self):
        self.actor = Actor(**self.environment)
        self.addCleanup(self.end_actor, self.actor)

    def end_actor(self, actor):
        self.assertEqual(actor.close(), 0)


def main():
    if not SERVER or not os.path.exists(SERVER):
        print("skipped: no PostgreSQL server is installed")
        sys.exit(77)
    del sys.argv[1:3]
    unittest.main(module="__main__")
