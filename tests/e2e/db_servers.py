"""PostgreSQL, MariaDB, Redis and OpenSSH for the tests: real servers in a folder and on a port of their own, never as
root, gone at the end.

Each has .url, with user and password, .stop(), which gives it no time, and .start().
"""

import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from mooring_case import WAIT_S
from tls_servers import free_ports, is_listening, wait_until

USER, PASSWORD = "skipper", "s3cret/&"
QUOTED = "s3cret%2F%26"
PLACES = ":".join(("/usr/sbin", "/sbin",
                   *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))))


def program(name):
    return shutil.which(name, path=os.environ.get("PATH", "") + ":" + PLACES)


def unprivileged():
    """For subprocess: these servers refuse root."""
    if os.getuid() != 0:
        return {}
    return {"user": "nobody", "group": "nogroup", "extra_groups": []}


LIBC = ctypes.CDLL(None)


def dies_with_us(with_signal):
    """For preexec_fn: a test that is killed leaves no server. It is the thread that starts one whose end
    counts, so let that be the main thread."""
    PR_SET_PDEATHSIG = 1
    return lambda: LIBC.prctl(PR_SET_PDEATHSIG, with_signal)


def descendants(pid):
    with contextlib.suppress(OSError):
        children = [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return children + [d for child in children for d in descendants(child)]
    return []


class Server:
    """One process. A subclass has programs, which it needs, and prepare() and command()."""

    programs = ()
    end_signal = signal.SIGKILL

    @classmethod
    def is_installed(cls):
        return all(map(program, cls.programs))

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="mooring-db-")
        self.root = Path(self.folder.name)
        if os.getuid() == 0:
            shutil.chown(self.root, "nobody", "nogroup")
        (self.port,) = free_ports(1)
        self.process = None
        try:
            self.prepare()
            self.start()
        except BaseException:
            self.close()
            raise

    def prepare(self):
        pass

    def run(self, *command, **more):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=self.root,
                              timeout=WAIT_S, check=False, **unprivileged(), **more)
        if done.returncode:
            raise AssertionError(f"{command[0]}: {done.stdout.decode(errors='replace')}")
        return done.stdout

    def start(self):
        with open(self.root / "log", "ab") as log:
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, cwd=self.root, **self.privileges(),
                                            preexec_fn=dies_with_us(self.end_signal))
        wait_until(lambda: self.process.poll() is not None or self.is_ready(), self.programs[-1])
        if self.process.poll() is not None:
            raise AssertionError(f"{self.programs[-1]}: " +
                                 (self.root / "log").read_text(errors="replace"))

    def is_ready(self):
        return is_listening(self.port)

    def privileges(self):
        return unprivileged()

    def stop(self):
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(self.end_signal)
            self.process.wait(WAIT_S)
            self.process = None

    def close(self):
        self.stop()
        self.folder.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class PostgreSQL(Server):
    programs = ("initdb", "pg_isready", "postgres")
    end_signal = signal.SIGQUIT  # at once, together with its children, which SIGKILL would leave

    def prepare(self):
        secret = self.root / "secret"
        secret.write_text(PASSWORD + "\n")
        secret.chmod(0o644)  # of a throw-away folder that only its owner can enter
        self.run(program("initdb"), "-D", self.root / "data", "-U", USER, "-A", "scram-sha-256",
                 "--pwfile", secret, "--no-sync", "--no-instructions", "-E", "UTF8", "--locale=C")
        self.url = f"postgres://{USER}:{QUOTED}@127.0.0.1:{self.port}/postgres?sslmode=disable"

    def command(self):
        return [program("postgres"), "-D", self.root / "data", "-p", str(self.port), "-k", self.root,
                *(f"-c{s}" for s in ("listen_addresses=127.0.0.1", "fsync=off", "shared_buffers=16MB",
                                     "max_connections=50", "autovacuum=off"))]

    def is_ready(self):
        return subprocess.run([program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)],
                              timeout=WAIT_S, check=False).returncode == 0


class MariaDB(Server):
    programs = ("mariadb-install-db", "mariadbd")

    def prepare(self):
        # One statement a line. It may run again at each start.
        (self.root / "users.sql").write_text(
            f"CREATE USER IF NOT EXISTS '{USER}'@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';\n"
            f"GRANT ALL ON *.* TO '{USER}'@'127.0.0.1';\nCREATE DATABASE IF NOT EXISTS harbour;\n")
        self.run(program("mariadb-install-db"), "--no-defaults", f"--datadir={self.root}/data", f"--tmpdir={self.root}",
                 "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve",
                 "--innodb-log-file-size=4M")
        self.url = f"mysql://{USER}:{QUOTED}@127.0.0.1:{self.port}/harbour"

    def command(self):
        return [program("mariadbd"), "--no-defaults", f"--datadir={self.root}/data", f"--tmpdir={self.root}",
                f"--port={self.port}", f"--socket={self.root}/socket", "--bind-address=127.0.0.1",
                "--skip-name-resolve", "--innodb-log-file-size=4M", "--innodb-buffer-pool-size=8M",
                "--innodb-flush-log-at-trx-commit=0", f"--init-file={self.root}/users.sql"]


class Redis(Server):
    programs = ("redis-server",)

    def prepare(self):
        (self.root / "conf").write_text(
            f"port {self.port}\nbind 127.0.0.1\nsave \"\"\nappendonly no\nrequirepass \"{PASSWORD}\"\n"
            f"dir {self.root}\n")
        (self.root / "conf").chmod(0o644)
        self.url = f"redis://:{QUOTED}@127.0.0.1:{self.port}"

    def command(self):
        return [program("redis-server"), self.root / "conf"]


class OpenSSH(Server):
    """It lets its own user in and starts that user's shell; nobody has none, so for nobody, where the tests run
    as root, the server sees a passwd file and a shadow file of its own."""

    programs = ("ssh-keygen", "unshare", "setpriv", "sshd")

    @classmethod
    def is_installed(cls):
        if not super().is_installed():
            return False
        return os.getuid() != 0 or subprocess.run(["unshare", "--mount", "true"], check=False,
                                                  stderr=subprocess.DEVNULL).returncode == 0

    def prepare(self):
        for name in ("host", "key", "stranger"):
            self.run(program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", self.root / name)
        (self.root / "conf").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.root}/host\nPidFile none\n"
            f"AuthorizedKeysFile {self.root}/key.pub\nStrictModes no\nUsePAM no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nMaxStartups 100\n")
        host = (self.root / "host.pub").read_text().split()
        (self.root / "known").write_text(f"[127.0.0.1]:{self.port} {host[0]} {host[1]}\n")
        user = pwd.getpwnam("nobody") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
        (self.root / "passwd").write_text(
            f"root:x:0:0::/root:/bin/sh\n{user.pw_name}:NP:{user.pw_uid}:{user.pw_gid}::{self.root}:/bin/sh\n"
            f"sshd:x:105:65534::/run/sshd:/usr/sbin/nologin\n")
        (self.root / "shadow").write_text(f"{user.pw_name}:NP:20000:0:99999:7:::\n")  # not locked
        for name in ("conf", "known", "passwd", "shadow"):
            (self.root / name).chmod(0o644)
        self.url = (f"ssh://{user.pw_name}@127.0.0.1:{self.port}?identity={self.root}/key&agent=none"
                    f"&known_hosts={self.root}/known")

    def privileges(self):
        return {}  # they are given up by the command itself

    def command(self):
        command = [program("sshd"), "-D", "-e", "-f", str(self.root / "conf")]
        if os.getuid() != 0:
            return command
        inside = (f"mount --bind {self.root}/passwd /etc/passwd && "
                  f"mount --bind {self.root}/shadow /etc/shadow && exec setpriv --reuid=nobody "
                  f"--regid=nogroup --clear-groups --pdeathsig KILL {' '.join(command)}")
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", inside]

    def stop(self):
        """With its sessions, which outlive who listens."""
        sessions = descendants(self.process.pid) if self.process else []
        super().stop()
        for pid in sessions:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
