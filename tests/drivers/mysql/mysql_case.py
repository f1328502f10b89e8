"""What the tests of the mysql driver share: a MariaDB of their own, unprivileged and on a free port, and the
program that holds connections.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "e2e"))

from mooring_case import WAIT_S, environment, read_line  # noqa: E402
from tls_authority import Certificate, Key, run  # noqa: E402, F401
from tls_servers import free_ports, wait_until  # noqa: E402

PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
MARIADBD = shutil.which("mariadbd", path=PATH)
INSTALL = shutil.which("mariadb-install-db", path=PATH)
CLIENT = shutil.which("mariadb", path=PATH)
NOBODY = 65534

CA = ("basicConstraints = critical, CA:true", "keyUsage = critical, keyCertSign")
SMALL = ("--innodb-log-file-size=4M", "--innodb-buffer-pool-size=8M")


def unprivileged():
    """For Popen. mariadbd does not run as root."""
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.getuid() == 0 else {}


class Server:
    """A MariaDB with a root without password on its socket, and a user app with the password s3cret."""

    def __init__(self, *options):
        self.root = Path(tempfile.mkdtemp(prefix="mooring-mysql-"))
        self.options = options
        self.process = None
        self.socket = str(self.root / "s")
        try:
            if os.getuid() == 0:
                os.chown(self.root, NOBODY, NOBODY)
            self.port = free_ports(1)[0]
            done = subprocess.run(
                [INSTALL, "--no-defaults", f"--datadir={self.root}/data", f"--tmpdir={self.root}",
                 "--skip-test-db", "--auth-root-authentication-method=normal", *SMALL], stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, timeout=WAIT_S, check=False, **unprivileged())
            if done.returncode:
                raise AssertionError(done.stdout.decode())
            self.start()
            self.sql("create database shop; create database other; "
                     "create user app@'%' identified by 's3cret'; create user app@localhost identified by "
                     "'s3cret'; grant all on shop.* to app@'%', app@localhost; "
                     "grant all on other.* to app@'%', app@localhost; grant reload on *.* to app@'%'")
        except BaseException:
            self.close()
            raise

    def start(self, *more):
        self.log = open(self.root / "log", "ab")
        self.process = subprocess.Popen(
            [MARIADBD, "--no-defaults", f"--datadir={self.root}/data", f"--socket={self.socket}",
             f"--port={self.port}", "--bind-address=127.0.0.1", f"--pid-file={self.root}/pid",
             f"--tmpdir={self.root}", *SMALL, "--innodb-flush-log-at-trx-commit=0", "--skip-log-bin",
             "--performance-schema=OFF", "--skip-name-resolve", *self.options, *more],
            stdout=self.log, stderr=self.log, **unprivileged())
        wait_until(lambda: self.process.poll() is not None or self.answers(), "mariadbd")
        if self.process.poll() is not None:
            raise AssertionError((self.root / "log").read_text())

    def answers(self):
        return self.ask("select 1").returncode == 0

    def ask(self, sql):
        return subprocess.run([CLIENT, "--no-defaults", "-uroot", "-S", self.socket, "-N", "-B", "-e", sql],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=WAIT_S, check=False)

    def sql(self, sql):
        done = self.ask(sql)
        if done.returncode:
            raise AssertionError(done.stderr.decode())
        return done.stdout.decode().strip()

    def kill(self):
        """As a crash would."""
        self.process.kill()
        self.process.wait(WAIT_S)
        self.log.close()

    def close(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait(WAIT_S)
            self.log.close()
        shutil.rmtree(self.root, ignore_errors=True)

    def url(self, query="", user="app:s3cret", host="127.0.0.1", database="shop"):
        return f"mysql://{user}@{host}:{self.port}/{database}?{query}"

    def connections(self):
        """Those of app."""
        return int(self.sql("select count(*) from information_schema.processlist where user='app'"))


class Certificates:
    """Of a server called localhost, of a client app, and two authorities: theirs and another."""

    def __init__(self):
        self.root = Path(tempfile.mkdtemp(prefix="mooring-mysql-tls-"))
        self.root.chmod(0o755)
        keys = [Key("p256", n) for n in range(4)]
        ca = Certificate("/CN=ours", keys[0], extensions=CA)
        other = Certificate("/CN=another", keys[1], extensions=CA)
        server = Certificate("/CN=db", keys[2], ca, extensions=("subjectAltName = DNS:localhost",))
        client = Certificate("/CN=app", keys[3], ca, extensions=("basicConstraints = CA:false",))
        for thing in (*keys, ca, other, server, client):
            thing.make(self.root)
        self.ca, self.other, self.server, self.client = ca, other, server, client
        for path in self.root.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)

    def options(self):
        """Of a server."""
        return (f"--ssl-ca={self.ca.path}", f"--ssl-cert={self.server.path}",
                f"--ssl-key={self.server.key.path}")

    def close(self):
        shutil.rmtree(self.root, ignore_errors=True)


class Shell:
    """mysql_shell. Its ending without a leak is checked too."""

    def __init__(self, program, **variables):
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, env=environment(**variables))
        self.said = []
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stderr:
            self.said.append(line.decode(errors="replace").rstrip())

    def __call__(self, *words):
        line = "\t".join(str(word) for word in words)
        assert "\n" not in line
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        try:
            return read_line(self.process.stdout)
        except AssertionError as e:
            raise AssertionError(f"{words}: {e}\n" + "\n".join(self.said)) from e

    def query(self, var, sql):
        return self("query", var, sql)

    def stats(self, pool, field):
        return int(self("stats", pool, field))

    def close(self):
        self.process.stdin.close()
        try:
            code = self.process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            code = "hung at its end"
        self.reader.join()
        self.process.stdout.close()
        self.process.stderr.close()
        assert code == 0, f"mysql_shell: {code}\n" + "\n".join(self.said)


class Case(unittest.TestCase):
    """A shell for each test; what servers there are, the classes say."""

    program = None

    def setUp(self):
        self.shell = Shell(self.program)
        self.addCleanup(lambda: self.shell.close())

    def restart(self, **variables):
        self.shell.close()
        self.shell = Shell(self.program, **variables)

    def open(self, url, *options, name="p"):
        self.assertEqual(self.shell("open", name, url, *options), "MOOR_OK", self.shell.said)

    def acquire(self, var="a", name="p", timeout=20000):
        answer = self.shell("acquire", name, var, timeout)
        self.assertIn("MOOR_OK", answer)
        return answer.split(" ")[1]

    def refused(self, name="p", timeout=20000):
        """Why there is none."""
        answer = self.shell("acquire", name, "refused", timeout)
        self.assertNotIn("MOOR_OK", answer)
        return answer

    def release(self, var="a", how="reuse"):
        self.assertEqual(self.shell("release", var, how), "released")

    def logged(self, text):
        wait_until(lambda: any(text in line for line in self.shell.said), text)


def main(case_module):
    Case.program = sys.argv.pop(1)
    if not (MARIADBD and INSTALL and CLIENT):
        print("skipped: no mariadb-server")
        sys.exit(77)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # finally and cleanups run
    unittest.main(case_module)
