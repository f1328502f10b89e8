"""Keys, certificates and OCSP responses, made by the openssl command and put on disk.

A certificate is described first and made later, many at a time: `openssl ca` is the only command of
OpenSSL 3.0 that sets both dates, and needs a directory of its own for each run.
"""

import base64
import hashlib
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from itertools import count
from pathlib import Path
from typing import Optional

NOW = datetime.now(timezone.utc)

KINDS = {
    "p192": ("EC", "ec_paramgen_curve:P-192"),
    "p256": ("EC", "ec_paramgen_curve:P-256"),
    "p384": ("EC", "ec_paramgen_curve:P-384"),
    "p521": ("EC", "ec_paramgen_curve:P-521"),
    "ed25519": ("ED25519", None),
    "rsa1024": ("RSA", "rsa_keygen_bits:1024"),
    "rsa2048": ("RSA", "rsa_keygen_bits:2048"),
    "rsa3072": ("RSA", "rsa_keygen_bits:3072"),
    "rsa4096": ("RSA", "rsa_keygen_bits:4096"),
    "pss2048": ("RSA-PSS", "rsa_keygen_bits:2048"),
}

# Weak keys and signatures are wanted here, so nothing of the machine's own configuration counts.
SERVER_CONF = """
openssl_conf = all
[all]
ssl_conf = ssl
[ssl]
system_default = lax
[lax]
CipherString = ALL:@SECLEVEL=0
MinProtocol = TLSv1.2
"""
CLIENT_CONF = SERVER_CONF.replace("ALL:@SECLEVEL=0", "DEFAULT@SECLEVEL=2")

CA_CONF = """
[ca]
default_ca = here
[here]
database = index
serial = serial
new_certs_dir = .
unique_subject = no
default_md = default
policy = any
{extensions}
[any]
commonName = optional
organizationName = optional
[ext]
{lines}
"""


def days(n):
    return NOW + timedelta(days=n)


def run(*command, stdin=None, cwd=None, check=True):
    done = subprocess.run([str(word) for word in command], input=stdin, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=60, check=False, cwd=cwd)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}: {done.stderr.decode()}")
    return done.stdout


@dataclass(eq=False)
class Key:
    """One key pair; those of a kind and number are the same one."""

    kind: str
    number: int = 0
    path: Optional[Path] = None
    request: Optional[Path] = None

    def make(self, root):
        algorithm, option = KINDS[self.kind]
        self.path = root / f"{self.kind}-{self.number}.key"
        self.request = self.path.with_suffix(".csr")
        run("openssl", "genpkey", "-algorithm", algorithm, "-out", self.path,
            *(["-pkeyopt", option] if option else []))
        run("openssl", "req", "-new", "-config", "/dev/null", "-key", self.path, "-subj", "/CN=key",
            "-out", self.request)
        self.path.chmod(0o644)

    def pin(self):
        spki = run("openssl", "pkey", "-in", self.path, "-pubout", "-outform", "DER")
        return "sha256/" + base64.b64encode(hashlib.sha256(spki).digest()).decode()


@dataclass(eq=False)
class Certificate:
    """What shall be in it. No issuer: it signs itself. No extensions at all: version 1."""

    subject: str
    key: Key
    issuer: Optional["Certificate"] = None
    extensions: tuple = ()
    begins: datetime = field(default_factory=lambda: days(-30))
    ends: datetime = field(default_factory=lambda: days(365))
    digest: Optional[str] = None  # None = what goes with the issuer's key
    pss: bool = False
    spoilt: bool = False  # the last byte of the signature is changed
    serial: int = field(default_factory=count(0x1001).__next__)
    path: Optional[Path] = None

    def make(self, root):
        name = f"{self.serial:x}"
        here = root / name
        here.mkdir()
        (here / "index").touch()
        (here / "serial").write_text(name + "\n")
        (here / "conf").write_text(CA_CONF.format(
            extensions="x509_extensions = ext" if self.extensions else "",
            lines="\n".join(self.extensions)))
        signer = ["-selfsign", "-keyfile", self.key.path]
        if self.issuer:
            signer = ["-cert", self.issuer.path, "-keyfile", self.issuer.key.path]
        path = root / f"{name}.pem"
        run("openssl", "ca", "-batch", "-notext", "-config", "conf", "-in", self.key.request,
            "-subj", self.subject, "-startdate", self.begins.strftime("%Y%m%d%H%M%SZ"),
            "-enddate", self.ends.strftime("%Y%m%d%H%M%SZ"), "-out", path, *signer,
            *(["-md", self.digest] if self.digest else []),
            *(["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:32"]
              if self.pss else []), cwd=here)
        if self.spoilt:
            der = bytearray(self.der_of(path))
            der[-1] ^= 1
            path.write_text(pem("CERTIFICATE", der))
        self.path = path

    @staticmethod
    def der_of(path):
        return base64.b64decode(re.search(r"-----BEGIN.*?-----(.*?)-----END", path.read_text(),
                                          re.DOTALL).group(1))

    def text(self):
        return self.path.read_text()


@dataclass(eq=False)
class Staple:
    """An OCSP response about a certificate: status V (good), R (revoked) or None (unknown)."""

    certificate: Certificate
    status: Optional[str] = "V"
    signer: Optional[Certificate] = None  # None = the certificate's issuer
    about: Optional[Certificate] = None   # another one than the server will send it with
    expired: bool = False
    spoilt: bool = False  # the last byte of the signature is changed
    path: Optional[Path] = None

    def make(self, root):
        subject = self.about or self.certificate
        issuer = subject.issuer
        signer = self.signer or issuer
        here = root / f"staple-{self.certificate.serial:x}-{id(self):x}"
        here.mkdir()
        lines = []
        if self.status:
            revoked = "260101000000Z" if self.status == "R" else ""
            lines = [f"{self.status}\t360101000000Z\t{revoked}\t{subject.serial:X}\tunknown\t/CN=x\n"]
        (here / "index").write_text("".join(lines))
        run("openssl", "ocsp", "-issuer", issuer.path, "-cert", subject.path, "-no_nonce",
            "-reqout", here / "request")
        path = here / "response"
        run("openssl", "ocsp", "-index", here / "index", "-CA", issuer.path, "-rsigner", signer.path,
            "-rkey", signer.key.path, "-reqin", here / "request", "-respout", path, "-ndays", "7")
        if self.expired or self.spoilt:
            path.write_bytes(self.changed(path.read_bytes(), signer, here))
        self.path = path

    def changed(self, response, signer, here):
        """A month older, or with a wrong signature. The lengths of RSA signatures never differ."""
        if self.expired:
            for found in re.finditer(rb"\x18\x0f(\d{14}Z)", response):
                then = datetime.strptime(found.group(1).decode(), "%Y%m%d%H%M%SZ")
                then = (then - timedelta(days=30)).strftime("%Y%m%d%H%M%SZ").encode()
                response = response[:found.start(1)] + then + response[found.end(1):]
        # The BasicOCSPResponse follows its OID; in it are ResponseData, algorithm and signature.
        at = response.index(bytes.fromhex("06092b0601050507300101")) + 11
        at = content(response, content(response, at)[0])[0]
        end = sum(content(response, at))
        (here / "data").write_bytes(response[at:end])
        signature = bytearray(run("openssl", "dgst", "-sha256", "-sign", signer.key.path,
                                  here / "data"))
        signature[-1] ^= self.spoilt
        at, length = content(response, sum(content(response, end)))
        assert length == 1 + len(signature), "only for RSA signers, with SHA-256"
        return response[:at + 1] + signature + response[at + length:]


def content(der, at):
    """Where the content of the element at `at` begins, and its length."""
    first = der[at + 1]
    if first < 0x80:
        return at + 2, first
    end = at + 2 + (first & 0x7f)
    return end, int.from_bytes(der[at + 2:end], "big")


def pem(label, der):
    text = base64.encodebytes(bytes(der)).decode()
    return f"-----BEGIN {label}-----\n{text}-----END {label}-----\n"


def make_all(root, keys, certificates, staples):
    """Issuers come before what they issued in `certificates`, so that waiting for them ends."""
    with ThreadPoolExecutor(4) as pool:
        slow_first = sorted(keys, key=lambda k: k.kind, reverse=True)
        futures = {k: pool.submit(k.make, root) for k in slow_first}

        def make(certificate):
            futures[certificate.key].result()
            if certificate.issuer:
                futures[certificate.issuer].result()
            certificate.make(root)

        for certificate in certificates:
            futures[certificate] = pool.submit(make, certificate)
        for future in list(futures.values()):
            future.result()
        for future in [pool.submit(staple.make, root) for staple in staples]:
            future.result()
