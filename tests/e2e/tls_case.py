"""What tests over TLS share: contexts, certificates, a socket whose TLS is in the test's hands.

Each test program has one folder for its files; it goes with the program.
"""

import os
import ssl
import subprocess
import tempfile
import threading

from origin_test import WAIT_S, Client

FOLDER = tempfile.TemporaryDirectory()


def path_of(name):
    return os.path.join(FOLDER.name, name)


def trust(ca=None, **settings):
    """A client's context: trusts this CA, or nobody's word if there is none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca:
        context.load_verify_locations(ca)
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for name, value in settings.items():
        setattr(context, name, value)
    return context


class TlsSocket:
    """A socket's calls over TLS. OpenSSL works in memory, so that two threads can share it and a
    test can send whatever it likes below."""

    def __init__(self, raw, context, name="localhost", session=None):
        self.raw = raw
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=name,
                                    session=session)
        self.guard, self.order = threading.Lock(), threading.Lock()
        self.ended_by = None
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.push()
                self.pull()
            except ssl.SSLError:
                self.push()
                raise
        self.push()

    def push(self):
        with self.order:
            with self.guard:
                data = self.outgoing.read()
            if data:
                self.raw.sendall(data)

    def pull(self):
        piece = self.raw.recv(1 << 16)
        with self.guard:
            if piece:
                self.incoming.write(piece)
            else:
                self.incoming.write_eof()

    def sendall(self, data):
        with self.order:
            with self.guard:
                if data:
                    self.tls.write(data)
                sealed = self.outgoing.read()
            self.raw.sendall(sealed)

    def recv(self, size):
        while True:
            try:
                with self.guard:
                    data = self.tls.read(size)
                if not data:
                    self.ended_by = "close_notify"
                return data
            except ssl.SSLWantReadError:
                self.pull()
            except ssl.SSLZeroReturnError:
                self.ended_by = "close_notify"
                return b""
            except ssl.SSLEOFError:
                self.ended_by = "FIN"
                return b""

    def shutdown(self, how):
        """Says close_notify and FIN, and can still read."""
        try:
            with self.guard:
                self.tls.unwrap()
        except ssl.SSLError:
            pass
        self.push()
        self.raw.shutdown(how)

    def fileno(self):
        return self.raw.fileno()

    def close(self):
        self.raw.close()


class TlsClient(Client):
    def __init__(self, port, context, name="localhost", session=None, **options):
        super().__init__(port, **options)
        raw = self.s
        try:
            self.s = TlsSocket(raw, context, name, session)
        except BaseException:
            raw.close()
            raise

    def is_silent(self, seconds=0.15):
        """Tickets make no noise."""
        if self.rest:
            return False
        self.s.raw.settimeout(seconds)
        try:
            self.rest = self.s.recv(1 << 16)
            return False
        except TimeoutError:
            return True
        finally:
            self.s.raw.settimeout(WAIT_S)

    def facts(self):
        """What /tls says, as a dict."""
        body = self.get("/tls").answer()[2].decode()
        return dict(line.split(": ", 1) for line in body.splitlines())


def self_signed(name, *options, subject="/CN=someone"):
    """Files of a certificate and its key; as its own CA it is good for either side."""
    cert, key = path_of(name + ".crt"), path_of(name + ".key")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", subject,
                    "-keyout", key, "-out", cert, *options], check=True, capture_output=True)
    return cert, key


def s_client(origin, *options, request=b""):
    """What `openssl s_client` prints until the server ends the conn."""
    run = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{origin.port}",
                          "-CAfile", path_of("ca.pem"), "-tls1_3", "-ign_eof", *options],
                         input=request, capture_output=True, timeout=WAIT_S)
    return run.stdout
