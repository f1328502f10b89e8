"""Real HTTP/2 servers on free ports: a certificate for the host, nghttpd, nginx, haproxy, node.

All serve the same files. Each prints nothing and ends with its with statement.
"""

import hashlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

from mooring_case import WAIT_S
from tls_servers import Nginx, free_ports, is_listening, wait_until

PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
NGHTTPD, NGINX, HAPROXY, NODE = (shutil.which(name, path=PATH)
                                 for name in ("nghttpd", "nginx", "haproxy", "node"))
LENGTHS = (0, 1, 100_000, 10_000_000)


def digest(body):
    return hashlib.sha256(body).hexdigest()


class Files:
    """A folder with a certificate, and a body of each length by that name."""

    def __init__(self, root):
        self.root = Path(root)
        self.root.chmod(0o755)
        (self.root / "server.cnf").write_text("")
        folder = self.root / "files"
        folder.mkdir()
        self.digests = {}
        for length in LENGTHS:
            body = os.urandom(length)
            (folder / str(length)).write_bytes(body)
            self.digests[length] = digest(body)
        self.cert, self.key, self.both = (self.root / n for n in ("a.crt", "a.key", "a.both"))
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
             "subjectAltName=IP:127.0.0.1,DNS:localhost", "-keyout", self.key, "-out", self.cert],
            check=True, capture_output=True)
        self.both.write_bytes(self.cert.read_bytes() + self.key.read_bytes())


class Server:
    """A process that listens on these ports."""

    def __init__(self, command, ports, **more):
        self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **more)
        for port in ports:
            wait_until(lambda p=port: self.process.poll() is not None or is_listening(p),
                       command[0])
        if self.process.poll() is not None:
            raise AssertionError(f"{command[0]}: {self.process.stderr.read().decode()}")

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(WAIT_S)
        finally:
            self.process.stderr.close()


class Nghttpd:
    can_echo = True

    def __init__(self, files):
        clear, tls = free_ports(2)
        self.urls = {"clear": f"http://127.0.0.1:{clear}", "tls": f"https://127.0.0.1:{tls}"}
        folder = files.root / "files"
        common = ("-a", "127.0.0.1", "-d", folder, "--echo-upload")
        self.servers = [Server([NGHTTPD, *common, "--no-tls", clear], [clear]),
                        Server([NGHTTPD, *common, tls, files.key, files.cert], [tls])]

    def close(self):
        for server in self.servers:
            server.close()


NGINX_HTTP = """
    server {{
        listen 127.0.0.1:{clear} http2;
        listen 127.0.0.1:{tls} ssl http2;
        listen 127.0.0.1:{h1} ssl;
        listen 127.0.0.1:{plain};
        ssl_certificate {root}/a.crt;
        ssl_certificate_key {root}/a.key;
        root {root}/files;
        keepalive_requests {requests};
        location = /small {{ return 200 "0123456789"; }}
        location = /version {{ return 200 "$server_protocol"; }}
    }}
"""


class NginxServer:
    can_echo = False

    def __init__(self, files, requests=1000000):
        names = ("clear", "tls", "h1", "plain")
        self.ports = dict(zip(names, free_ports(len(names))))
        self.urls = {name: f"http{'' if name in ('clear', 'plain') else 's'}://127.0.0.1:{port}"
                     for name, port in self.ports.items()}
        http = NGINX_HTTP.format(root=files.root, requests=requests, **self.ports)
        self.server = Nginx(files.root, http, self.ports["clear"])

    def reload(self):
        self.server.reload()

    def close(self):
        self.server.close()


HAPROXY_CONF = """
global
    maxconn 500
defaults
    mode http
    timeout client 30s
    timeout server 30s
    timeout connect 5s
frontend clear
    bind 127.0.0.1:{clear} proto h2
    default_backend behind
frontend tls
    bind 127.0.0.1:{tls} ssl crt {both} alpn h2,http/1.1
    default_backend behind
backend behind
    server nginx 127.0.0.1:{behind} proto h2
"""


class Haproxy:
    """In front of nginx, to which it speaks HTTP/2 as well."""

    can_echo = False

    def __init__(self, files):
        self.behind = NginxServer(files)
        clear, tls = free_ports(2)
        self.urls = {"clear": f"http://127.0.0.1:{clear}", "tls": f"https://127.0.0.1:{tls}"}
        config = files.root / "haproxy.cfg"
        config.write_text(HAPROXY_CONF.format(clear=clear, tls=tls, both=files.both,
                                              behind=self.behind.ports["clear"]))
        self.server = Server([HAPROXY, "-db", "-f", config], [clear, tls])

    def close(self):
        self.server.close()
        self.behind.close()


NODE_PROGRAM = """
const http2 = require('http2'), fs = require('fs');
const [clear, tls, folder, cert, key] = process.argv.slice(2);
function serve(stream, headers) {
    const path = headers[':path'], method = headers[':method'];
    stream.on('error', () => {});
    if (method === 'POST') {
        stream.respond({ ':status': 200 });
        stream.pipe(stream);
        return;
    }
    if (path === '/trailers') {
        stream.respond({ ':status': 200 }, { waitForTrailers: true });
        stream.on('wantTrailers', () => stream.sendTrailers({ 'x-sum': '1' }));
        stream.end('with trailers');
        return;
    }
    if (path === '/hints') {
        stream.additionalHeaders({ ':status': 103, 'link': '</a>' });
        stream.respond({ ':status': 200 });
        stream.end('with hints');
        return;
    }
    const file = folder + path;
    if (!/^\\/\\d+$/.test(path) || !fs.existsSync(file)) {
        stream.respond({ ':status': 404 });
        stream.end('no ' + path);
        return;
    }
    if (method === 'HEAD') {
        stream.respond({ ':status': 200, 'content-length': fs.statSync(file).size },
            { endStream: true });
        return;
    }
    stream.respondWithFile(file);
}
http2.createServer().on('stream', serve).listen(+clear, '127.0.0.1');
http2.createSecureServer({ cert: fs.readFileSync(cert), key: fs.readFileSync(key) })
    .on('stream', serve).listen(+tls, '127.0.0.1');
process.on('SIGTERM', () => process.exit(0));
"""


class Node:
    can_echo = True

    def __init__(self, files):
        clear, tls = free_ports(2)
        self.urls = {"clear": f"http://127.0.0.1:{clear}", "tls": f"https://127.0.0.1:{tls}"}
        program = files.root / "server.js"
        program.write_text(NODE_PROGRAM)
        self.server = Server([NODE, program, clear, tls, files.root / "files", files.cert,
                              files.key], [clear, tls])

    def close(self):
        self.server.close()
