"""What the load benchmarks share: servers, clients, measured processes, the environment."""

import json
import os
import pathlib
import platform
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import certificates

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
    return address, free_port(address)


def free_port(address):
    with socket.socket() as s:
        s.bind((address, 0))
        return s.getsockname()[1]


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
    {more}
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
            conns=16384, more=self.more(),
            user="user nobody nogroup;" if os.geteuid() == 0 else ""))
        self.process = start([binary, "-c", config, "-e", f"{self.folder.name}/error.log",
                              "-p", self.folder.name], cpu,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.url = f"http://{self.address}:{port}/small"
        try:
            wait_for_port(self.process, self.address, port)
        except RuntimeError as e:
            log = pathlib.Path(self.folder.name, "error.log")
            raise RuntimeError(f"nginx: {e}\n{log.read_text() if log.exists() else ''}") from None

    def more(self):
        """Further configuration inside http {}."""
        return ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        stop(self.process)
        self.folder.cleanup()


class TlsNginx(Nginx):
    """The same with https servers beside it: `ec` and `rsa` by key, and of TLS 1.2 only `ec12` and
    `mtls12`, which asks for a certificate. The server alone chooses cipher and group, so that all
    clients have the same."""

    TLS = """
    ssl_session_tickets on; ssl_session_timeout 1h; ssl_prefer_server_ciphers on;
    ssl_ciphers ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256;
    ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256; ssl_ecdh_curve X25519:prime256v1;
    ssl_client_certificate {dir}/roots.pem; ssl_verify_depth 3;
    output_buffers 4 256k;
    map $connection_requests $is_first {{ default 0; 1 1; }}
    log_format handshake "$ssl_session_reused $request_uri";
    """
    SERVER = """
    server {{
        listen {address}:{port} ssl backlog=4096;
        ssl_certificate {dir}/{key}.pem; ssl_certificate_key {dir}/{key}.key;
        ssl_protocols {versions}; ssl_verify_client {asks};
        location = /small {{ return 200 "{body}"; }}
        location = /flush {{ access_log {dir}/flush.log handshake if=$is_first;
                             return 200 "{body}"; }}
        location = /bulk {{ alias {bulk}; }}
        location = /slow {{ alias {dir}/slow; limit_rate $arg_rate; }}
    }}
    """
    SERVERS = {"ec": ("ec", "TLSv1.2 TLSv1.3", "off"), "rsa": ("rsa", "TLSv1.2 TLSv1.3", "off"),
               "ec12": ("ec", "TLSv1.2", "off"), "mtls12": ("ec", "TLSv1.2", "on")}
    NAME = certificates.NAME
    SLOW_BYTES = 4096

    def __init__(self, cpu=None, bulk_bytes=1 << 20):
        shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.bulk = tempfile.NamedTemporaryFile(prefix="mooring-bench-", dir=shm)
        os.chmod(self.bulk.name, 0o644)
        self.bulk_bytes = bulk_bytes
        block = os.urandom(min(1 << 20, bulk_bytes))
        for _ in range(bulk_bytes // len(block)):
            self.bulk.write(block)
        self.bulk.flush()
        self.origins = {}
        super().__init__(cpu)

    def more(self):
        folder = pathlib.Path(self.folder.name)
        certificates.make(system_program("openssl", "openssl"), folder, self.address)
        self.roots, self.client_cert = folder / "roots.pem", folder / "client.pem"
        (folder / "slow").write_text("0123456789abcdef" * (self.SLOW_BYTES // 16))
        text = self.TLS.format(dir=folder)
        for name, (key, versions, asks) in self.SERVERS.items():
            port = free_port(self.address)
            text += self.SERVER.format(dir=folder, address=self.address, port=port, key=key,
                                       versions=versions, asks=asks, body=BODY,
                                       bulk=self.bulk.name)
            self.origins[name] = f"https://{self.address}:{port}"
        return text

    def secure_url(self, name, path="/small"):
        return self.origins[name] + path

    def first_requests(self):
        """Of each conn that began with /flush: whether its handshake was resumed, and the URI."""
        log = pathlib.Path(self.folder.name, "flush.log")
        lines = log.read_text().splitlines() if log.exists() else []
        return [(line.split()[0] == "r", line.split()[1]) for line in lines]

    def __exit__(self, *_):
        super().__exit__()
        self.bulk.close()


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


class Client:
    """A client that repeats one GET for some time: how it is run, how what it did is read."""

    def __init__(self, name, command, env=None):
        self.name, self.command, self.env = name, command, env

    def slice(self, url, conc, seconds, cpu):
        done = checked(self.name, self.command(url, conc, seconds), cpu, self.env)
        requests, errors, extra = self.read(done)
        if errors or not requests:
            raise RuntimeError(f"{self.name}: {requests} requests, {errors} errors: {done.err}")
        return {"requests": requests, "cpu_us_per_request": done.cpu * 1e6 / requests,
                "user_us_per_request": done.user * 1e6 / requests, **extra}

    @staticmethod
    def read(done):
        o = done.json()
        errors = o["errors"]
        if isinstance(errors, dict):  # by kind
            errors = sum(errors.values())
        extra = {k: o[k] for k in ("requests_per_second", "backend") if k in o}
        if o.get("enters"):
            extra["syscalls_per_request"] = (o["enters"] + o["other_syscalls"]) / o["requests"]
        return o["requests"], errors, extra


class Wrk(Client):
    def __init__(self, name="wrk"):
        binary = system_program("wrk", "wrk")
        super().__init__(name, lambda url, conc, seconds: [
            binary, "-t1", f"-c{conc}", f"-d{max(1, round(seconds))}s", url])

    @staticmethod
    def read(done):
        requests = int(re.search(r"(\d+) requests in", done.out).group(1))
        errors = sum(int(n) for n in re.findall(r"(?:connect|read|write|timeout) (\d+)", done.out))
        bad = re.search(r"Non-2xx or 3xx responses: (\d+)", done.out)
        errors += int(bad.group(1)) if bad else 0
        rate = float(re.search(r"Requests/sec:\s*([\d.]+)", done.out).group(1))
        return requests, errors, {"requests_per_second": rate}


def lean(name, *more):
    binary = program(name)
    return lambda url, conc, seconds: [binary, "-c", conc, "-d", seconds, *more, url]


def checked(name, command, cpu=None, env=None, patience=120):
    """A process that ended well."""
    done = Finished(command, cpu, env, patience)
    if done.status == SKIPPED:
        raise Unavailable(f"{name}: {done.err.strip() or 'refused here'}")
    if done.status != 0:
        raise RuntimeError(f"{name} ended with {done.status}: {done.err or done.out}")
    return done


def at_rest(command, rest, env=None):
    """Starts a program that opens conns, says so in a line and waits; looks at its memory `rest`
    seconds later. Returns the line and bytes by kind."""
    command = [str(c) for c in command]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                               env={**os.environ, **(env or {})})
    what = " ".join([pathlib.Path(command[0]).name, *command[1:]])
    try:
        line = process.stdout.readline()
        if not line:
            status = process.wait()
            if status == SKIPPED:
                raise Unavailable(f"{what}: refused here")
            raise RuntimeError(f"{what} ended with {status}")
        time.sleep(rest)
        memory = rollup(process.pid)
        process.stdin.close()
        if process.wait(60) != 0:
            raise RuntimeError(f"{what} ended with {process.returncode}")
    finally:
        stop(process)
        process.stdout.close()
    return json.loads(line), memory


def rollup(pid):
    """Bytes by kind. Pages of files count as dirty until they are written back, and a program that
    was just linked is full of them: hence a sync before."""
    found = {}
    for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split(":")
        found[name] = int(value.split()[0]) * 1024
    return found


def allow_descriptors(wanted):
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if wanted > limit:
        raise Unavailable(f"{wanted} descriptors are needed, {limit} allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))


def spread(values):
    return {"median": median(values), "p25": quantile(values, 0.25), "p75": quantile(values, 0.75)}


def version_of(command, pattern):
    try:
        done = Finished(command)
    except (OSError, Unavailable):
        return "missing"
    found = re.search(pattern, done.out + done.err)
    return found.group(0) if found else "unknown"


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
