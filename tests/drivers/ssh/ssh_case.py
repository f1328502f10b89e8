"""What the tests of the ssh driver share: a real sshd of their own, agents, and ssh_shell, which they drive.

sshd runs as whoever runs the test, logs that user in, and listens on loopback: nothing of the system's is touched.
"""

import ctypes
import json
import os
import pwd
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
from tls_servers import free_ports, is_listening, wait_until  # noqa: E402

SHELL = sys.argv[1] if len(sys.argv) > 1 else ""
SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
USER = pwd.getpwuid(os.geteuid()).pw_name
WAIT_S = 60  # far above what anything here takes

CONF = """
Port {port}
ListenAddress 127.0.0.1
HostKey {root}/host
AuthorizedKeysFile {root}/authorized
PidFile none
UsePAM no
StrictModes no
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
PrintMotd no
SetEnv SHLVL=5
LogLevel VERBOSE
MaxStartups 100
{more}
"""

_libc = ctypes.CDLL(None, use_errno=True)


_ports = []  # one request for all: each takes a slice of its own


def next_port():
    if not _ports:
        _ports.extend(free_ports(64))
    return _ports.pop()


def die_with_parent():
    _libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def make_key(path, passphrase="", kind="ed25519", *more):
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", path, *more], check=True,
                   stdin=subprocess.DEVNULL)
    return path


def fingerprint(path):
    out = subprocess.run(["ssh-keygen", "-l", "-f", path], check=True, capture_output=True, text=True)
    return out.stdout.split()[1]


class Sshd:
    def __init__(self, root, more="", port=None):
        self.root, self.more = Path(root), more
        self.port = port or next_port()
        self.process = None
        self.root.mkdir()
        make_key(self.root / "host")
        self.user_key = make_key(self.root / "user")
        shutil.copy(self.root / "user.pub", self.root / "authorized")
        self.know(self.root / "known_hosts", self.root / "host.pub")

    def know(self, path, public_key):
        kind, key = Path(public_key).read_text().split()[:2]
        Path(path).write_text(f"[127.0.0.1]:{self.port} {kind} {key}\n")

    def start(self, more=None):
        self.more = self.more if more is None else more
        (self.root / "config").write_text(CONF.format(port=self.port, root=self.root, more=self.more))
        with open(self.root / "log", "a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [SSHD, "-D", "-e", "-f", self.root / "config"], stdin=subprocess.DEVNULL, stderr=log,
                start_new_session=True, preexec_fn=die_with_parent,
                env={k: v for k, v in os.environ.items() if k != "SSH_AUTH_SOCK"})
        wait_until(lambda: self.process.poll() is not None or is_listening(self.port), "sshd")
        if self.process.poll() is not None:
            raise AssertionError("sshd: " + self.log())
        return self

    def log(self):
        return (self.root / "log").read_text()

    def sessions(self):
        """The processes of connections, each a child of the listener."""
        out = subprocess.run(["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True,
                             text=True, check=False)
        return [int(pid) for pid in out.stdout.split()]

    def kill_sessions(self, sig=signal.SIGKILL):
        for pid in self.sessions():
            try:
                os.kill(pid, sig)
            except ProcessLookupError:
                pass

    def stop(self):
        if self.process and self.process.poll() is None:
            sessions = self.sessions()
            self.process.kill()
            self.process.wait(WAIT_S)
            for pid in sessions:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass

    def url(self, user=USER, password="", **query):
        query.setdefault("known_hosts", str(self.root / "known_hosts"))
        query.setdefault("identity", str(self.user_key))
        query.setdefault("agent", "none")
        who = urllib.parse.quote(user, safe="") + (":" + urllib.parse.quote(password, safe="") if password else "")
        words = urllib.parse.urlencode({k: v for k, v in query.items() if v is not None})
        return f"ssh://{who}@127.0.0.1:{self.port}?{words}"


class Shell:
    """ssh_shell: one pool, one multiplexer."""

    def __init__(self, url, env=None, **options):
        words = [f"{k}={v}" for k, v in options.items()]
        full = {k: v for k, v in os.environ.items() if k not in ("SSH_AUTH_SOCK", "DISPLAY")}
        full.update(env or {})
        self.process = subprocess.Popen([SHELL, url, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        env=full, start_new_session=True, preexec_fn=die_with_parent)
        self.buffer, self.beside = b"", {}
        self.opened = self.answer()

    def send(self, line):
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def answer(self, timeout=WAIT_S):
        end = time.monotonic() + timeout
        while b"\n" not in self.buffer:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, end - time.monotonic()))
            piece = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            if not piece:
                raise AssertionError(f"ssh_shell gave no answer: {self.buffer!r}, ended {self.process.poll()}")
            self.buffer += piece
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def ask(self, line):
        self.send(line)
        return self.answer()

    def answer_of(self, verb):
        """The answer of what was begun beside, which may have come while others were waited for."""
        return self.beside[verb].pop(0) if self.beside.get(verb) else self.answer()

    def ask_beside(self, line):
        """While something begun with & runs: its answer, if it comes first, is kept."""
        self.send(line)
        got = self.answer()
        while "verb" in got:
            self.beside.setdefault(got["verb"], []).append(got)
            got = self.answer()
        return got

    def beats(self, count=100):
        """The shard goes on, whatever happens: waits for so many turns of its timer."""
        seen = 0
        end = time.monotonic() + WAIT_S
        while seen < count:
            seen += self.ask_beside("pulse")["pulses"]
            if time.monotonic() > end:
                raise AssertionError(f"the shard hangs: {seen} turns in {WAIT_S} s")
            time.sleep(0.01)

    def run(self, command, timeout=30000, output_max=16 << 20, input_bytes=0):
        return self.ask(f"run {timeout} {output_max} {input_bytes} {command}")

    def lease(self, command="true", timeout=10000, how=0):
        return self.ask(f"lease {timeout} {how} {command}")

    def storm(self, count, command, timeout=30000, cancel_every=0):
        return self.ask(f"storm {count} {timeout} {cancel_every} {command}")

    def stats(self):
        return self.ask("stats")

    def close(self):
        self.process.stdin.close()
        closed = self.answer()
        status = self.process.wait(WAIT_S)
        self.process.stdout.close()
        return closed, status


class SshCase(unittest.TestCase):
    def setUp(self):
        self.root = Path(tempfile.mkdtemp(prefix="mooring-ssh-"))
        self.addCleanup(shutil.rmtree, self.root, True)

    def sshd(self, name="sshd", more="", port=None):
        server = Sshd(self.root / name, more, port)
        self.addCleanup(server.stop)
        return server.start()

    def shell(self, url, env=None, **options):
        shell = Shell(url, env, **options)
        self.addCleanup(self.end, shell)
        return shell

    def end(self, shell):
        """It must close in good order, with nothing leaked: sanitizers make the status 1."""
        if shell.process.stdin.closed:
            return
        if shell.opened["err"] != "MOOR_OK":  # it has ended by itself
            shell.process.stdin.close()
            self.assertEqual(shell.process.wait(WAIT_S), 0)
            shell.process.stdout.close()
            return
        try:
            closed, status = shell.close()
            self.assertEqual(closed, {"closed": True})
            self.assertEqual(status, 0)
        finally:
            if shell.process.poll() is None:
                shell.process.kill()
                shell.process.wait()
            shell.process.stdout.close()


def main():
    if not SSHD or not shutil.which("ssh-keygen"):
        print("no sshd or ssh-keygen")
        sys.exit(77)
    if os.geteuid() == 0 and not os.path.isdir("/run/sshd"):
        print("sshd wants /run/sshd when it is root")
        sys.exit(77)
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
