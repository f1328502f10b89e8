"""Real TLS servers for the tests, unprivileged and on free ports: nginx and openssl s_server, and a
relay that listens in.

The servers find their server.cnf, which allows weak keys, where tls_certs.py put it.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

from mooring_case import WAIT_S, read_line

NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")

NGINX_CONF = """
worker_processes {workers};
daemon off;
{user}
pid {root}/nginx.pid;
error_log {root}/error.log warn;
worker_shutdown_timeout 20s;
events {{ worker_connections 2048; }}
http {{
    client_body_temp_path {root}/body; proxy_temp_path {root}/proxy;
    fastcgi_temp_path {root}/fastcgi; uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
    log_format seen "$server_port $ssl_protocol $ssl_session_reused $ssl_server_name $status";
    access_log {root}/access.log seen;
    {http}
}}
"""


PORTS_LOW, PORTS_EACH = 10000, 1000  # below those that the kernel gives to whoever connects
_slices = []  # locks of this process's


def free_ports(count):
    """Nobody else's, until this process ends: between here and the server's start none must go."""
    ports = []
    for number in range(20):
        slice_ = open(f"/tmp/mooring-test-ports-{number}", "w", encoding="ascii")
        try:
            fcntl.flock(slice_, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            slice_.close()
            continue
        _slices.append(slice_)
        first = PORTS_LOW + number * PORTS_EACH
        for port in range(first, first + PORTS_EACH):
            if len(ports) == count:
                return ports
            with socket.socket() as s, contextlib.suppress(OSError):
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                s.bind(("127.0.0.1", port))
                ports.append(port)
    raise RuntimeError(f"no {count} free ports")


def wait_until(true, what):
    end = time.monotonic() + WAIT_S
    while not true():
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {WAIT_S} s")
        time.sleep(0.02)


def is_listening(port, host="127.0.0.1"):
    try:
        socket.create_connection((host, port), 1).close()
    except OSError:
        return False
    return True


class Nginx:
    """`http` is the inside of the http block; its first port tells when it is up."""

    def __init__(self, root, http, port, workers=1):
        self.root = Path(root)
        self.workers = workers
        self.write(http)
        self.process = subprocess.Popen(
            [NGINX, "-c", self.root / "nginx.conf", "-p", self.root], stderr=subprocess.PIPE,
            env={**os.environ, "OPENSSL_CONF": str(self.root / "server.cnf")})
        wait_until(lambda: self.process.poll() is not None or is_listening(port), "nginx")
        if self.process.poll() is not None:
            raise AssertionError("nginx: " + self.process.stderr.read().decode())

    def write(self, http):
        user = "user nobody nogroup;" if os.getuid() == 0 else ""
        (self.root / "nginx.conf").write_text(
            NGINX_CONF.format(root=self.root, http=http, user=user, workers=self.workers))

    def reload(self):
        self.process.send_signal(signal.SIGHUP)

    def seen(self):
        """Requests so far: lists of port, protocol, r or '.', name asked for and status."""
        try:
            return [line.split() for line in (self.root / "access.log").read_text().splitlines()]
        except FileNotFoundError:
            return []

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(WAIT_S)
        self.process.stderr.close()


class OpenSSLServer:
    """openssl s_server, which answers with a page about the handshake and then closes."""

    def __init__(self, chain, key, *options, host="127.0.0.1", cwd=None):
        """chain: a file with the leaf first. With -WWW among the options, it serves cwd."""
        chain = Path(chain)
        certificates = chain.read_text().split("-----END CERTIFICATE-----\n")[:-1]
        if len(certificates) > 1:
            rest = chain.with_suffix(".rest")
            rest.write_text("".join(c + "-----END CERTIFICATE-----\n" for c in certificates[1:]))
            options = ("-cert_chain", rest, *options)
        self.process = subprocess.Popen(
            ["openssl", "s_server", "-accept", f"{host}:0", "-www", "-cert", chain, "-key", key,
             "-no-CApath", "-no-CAstore", *options], cwd=cwd, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, "OPENSSL_CONF": str(chain.parent / "server.cnf")})
        said, line = "", ""
        while not line.startswith("ACCEPT "):
            try:
                line = read_line(self.process.stdout)
            except AssertionError as e:
                raise AssertionError(f"openssl s_server with {chain}:\n{said}") from e
            said += line + "\n"
        self.port = int(line.rsplit(":", 1)[1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait(WAIT_S)
        self.process.stdout.close()


class Relay:
    """Stands before a server, keeps what clients say first, and may cut what the server says."""

    def __init__(self, port, piece=65536):
        self.target, self.piece = port, piece
        self.hellos = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.target), WAIT_S)
            for s in (client, server):
                s.settimeout(WAIT_S)
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self.relay, args=(client, server), daemon=True).start()

    def relay(self, client, server):
        with client, server:
            back = threading.Thread(target=self.downwards, args=(server, client), daemon=True)
            back.start()
            self.upwards(client, server)
            back.join()

    def upwards(self, client, server):
        first = b""
        with contextlib.suppress(OSError):
            while len(first) < 5 or len(first) < 5 + int.from_bytes(first[3:5], "big"):
                more = client.recv(65536)
                if not more:
                    break
                first += more
            self.hellos.append(Hello(first))
            server.sendall(first)
            while data := client.recv(65536):
                server.sendall(data)
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_WR)

    def downwards(self, server, client):
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                for at in range(0, len(data), self.piece):
                    client.sendall(data[at:at + self.piece])
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_WR)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class Hello:
    """What a ClientHello offers: the name it asks for, and whether it brings a session along."""

    def __init__(self, record):
        at = 5 + 4 + 2 + 32
        has_id = record[at] > 0
        at += 1 + record[at]
        at += 2 + int.from_bytes(record[at:at + 2], "big")
        at += 1 + record[at] + 2
        self.extensions = {}
        while at < len(record):
            kind, length = struct.unpack_from(">HH", record, at)
            self.extensions[kind] = record[at + 4:at + 4 + length]
            at += 4 + length
        self.name = self.extensions.get(0, b"")[5:].decode()
        speaks_13 = b"\x03\x04" in self.extensions.get(43, b"")
        # Clients of TLS 1.3 send an id that means nothing (RFC 8446, D.4).
        self.brings_session = (41 in self.extensions or bool(self.extensions.get(35)) or
                               (has_id and not speaks_13))
