"""What the load benchmarks share: servers, pinning, measured processes, the environment."""

import json
import os
import pathlib
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SKIPPED = 77

# What a client is answered: enough headers to be parsed in earnest, and a body that fits a packet.
BODY = "0123456789abcdef" * 8


class Unavailable(Exception):
    """A program or a kernel feature is missing here: a reason to skip, not a failure."""


def build_dir():
    return pathlib.Path(os.environ.get("MOORING_BUILD", ROOT / "build" / "release"))


def program(name):
    """A program of the build tree."""
    path = build_dir() / "bin" / name
    if not path.exists():
        raise Unavailable(f"{path} is not built")
    return str(path)


def system_program(name, package):
    for folder in (None, "/usr/sbin:/usr/local/sbin:/sbin"):
        path = shutil.which(name, path=folder)
        if path:
            return path
    raise Unavailable(f"{name} is not installed (package {package})")


def cpus():
    """The CPU of the clients and that of the servers: the same one if there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


def free_address():
    """A loopback address and port nobody listens on. The address varies: conns to one that an
    earlier run closed linger for a minute, and their ports with them."""
    address = f"127.{os.getpid() % 100 + 1}.{int(time.time()) % 250}.1"
    with socket.socket() as s:
        s.bind((address, 0))
        return address, s.getsockname()[1]


def start(command, cpu=None, **settings):
    def pin():
        if cpu is not None:
            os.sched_setaffinity(0, {cpu})
    return subprocess.Popen([str(c) for c in command], preexec_fn=pin, text=True, **settings)


def stop(process):
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Nginx:
    """One worker with its own configuration in a temporary folder, on a free loopback port."""

    CONFIG = """
daemon off; worker_processes 1; worker_rlimit_nofile {files}; {user}
pid {dir}/pid; error_log {dir}/error.log;
events {{ worker_connections {conns}; }}
http {{
    access_log off; default_type text/plain;
    keepalive_requests 1000000000; keepalive_timeout 1h;
    client_body_temp_path {dir}/a; proxy_temp_path {dir}/b; fastcgi_temp_path {dir}/c;
    uwsgi_temp_path {dir}/d; scgi_temp_path {dir}/e;
    server {{
        listen {address}:{port} backlog=4096;
        location = /small {{ return 200 "{body}"; }}
    }}
}}
"""

    def __init__(self, cpu=None):
        binary = system_program("nginx", "nginx-light")
        self.folder = tempfile.TemporaryDirectory(prefix="mooring-bench-")
        os.chmod(self.folder.name, 0o755)  # the worker is another user
        self.address, port = free_address()
        config = pathlib.Path(self.folder.name, "nginx.conf")
        config.write_text(self.CONFIG.format(
            dir=self.folder.name, address=self.address, port=port, body=BODY, files=20000,
            conns=16384, user="user nobody nogroup;" if os.geteuid() == 0 else ""))
        self.process = start([binary, "-c", config, "-e", f"{self.folder.name}/error.log",
                              "-p", self.folder.name], cpu,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.url = f"http://{self.address}:{port}/small"
        try:
            wait_for_port(self.process, self.address, port)
        except RuntimeError as e:
            log = pathlib.Path(self.folder.name, "error.log")
            raise RuntimeError(f"nginx: {e}\n{log.read_text() if log.exists() else ''}") from None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        stop(self.process)
        self.folder.cleanup()


class Origin:
    """The project's own test server: for what nginx does not do, such as to answer late."""

    def __init__(self, cpu=None, echo=False):
        address = free_address()[0]
        self.process = start([program("mooring-origin"), "--bind", address,
                              *(["--echo-port", "0"] if echo else [])], cpu,
                             stdout=subprocess.PIPE)
        self.url = self.echo_url = None
        while not self.url or (echo and not self.echo_url):
            line = self.process.stdout.readline()
            if not line:
                raise RuntimeError("mooring-origin did not start")
            found = re.search(r"(http|tcp)://\S+", line) or re.search(r"[0-9.]+:\d+", line)
            if not found:
                continue
            text = found.group(0)
            if text.startswith("http"):
                self.url = text.rstrip("/")
            else:
                self.echo_url = text if "://" in text else f"tcp://{text}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        stop(self.process)
        self.process.stdout.close()


def wait_for_port(process, address, port):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"ended with status {process.returncode}")
        with socket.socket() as s:
            if s.connect_ex((address, port)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError("does not listen after 10 s")


class Finished:
    """A process that ran to its end: what it printed and what CPU it took, start-up included."""

    def __init__(self, command, cpu=None, env=None, patience=120):
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            process = start(command, cpu, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                            env={**os.environ, **(env or {})})
            # wait4 gives this child's use alone; the threads it had are in it.
            deadline = time.monotonic() + patience
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
            while pid == 0:
                if time.monotonic() > deadline:
                    process.kill()
                time.sleep(0.01)
                pid, status, used = os.wait4(process.pid, os.WNOHANG)
            process.returncode = self.status = os.waitstatus_to_exitcode(status)
            out.seek(0)
            err.seek(0)
            self.out, self.err = out.read(), err.read()
        self.cpu = used.ru_utime + used.ru_stime
        self.user = used.ru_utime

    def json(self):
        """The last line that is an object: what is before may be a progress line."""
        for line in reversed(self.out.splitlines()):
            if line.startswith("{"):
                return json.loads(line)
        return json.loads(self.out)


def first_line(path):
    try:
        return pathlib.Path(path).read_text().splitlines()[0]
    except (OSError, IndexError):
        return "unknown"


def environment():
    cpu = "unknown"
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    folder = pathlib.Path("/sys/devices/system/cpu/vulnerabilities")
    fixes = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        text = first_line(path)
        if text.startswith("Mitigation: "):
            fixes.append(f"{path.name}: {text[12:]}")
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "kernel": f"{platform.system()} {platform.release()}",
        "cpu": cpu,
        "cpus": len(os.sched_getaffinity(0)),
        "governor": first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "mitigations": " | ".join(fixes) or "none",
        "load average": first_line("/proc/loadavg").split()[0],
        "options": " ".join(sorted(f"{k}={v}" for k, v in os.environ.items()
                                   if k.startswith("MOORING_") and k != "MOORING_BUILD"))
                   or "defaults",
    }


def print_environment():
    for name, value in environment().items():
        print(f"{name + ':':14} {value}")


def quantile(values, q):
    """Between neighbours; 0.5 is the median."""
    values = sorted(values)
    at = q * (len(values) - 1)
    low = int(at)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (at - low)


def median(values):
    return quantile(values, 0.5)


def run_main(main):
    """A missing program is a skip, a failed client a message without a traceback."""
    try:
        sys.exit(main())
    except Unavailable as e:
        print(f"skipped: {e}")
        sys.exit(SKIPPED)
    except (RuntimeError, AssertionError) as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(1)
