"""Certificates for the TLS benchmarks: a root, an intermediate and a leaf, of ECDSA P-256 and of
RSA-2048, and one for a client. Made by the program openssl, for one run."""

import subprocess

NAME = "bench.test"
KEYS = {"ec": ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"], "rsa": ["rsa:2048"]}
AUTHORITY = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"]
END = ["basicConstraints=critical,CA:FALSE", "keyUsage=critical,digitalSignature"]


def make(openssl, folder, address):
    """roots.pem, {ec,rsa}.pem (leaf and intermediate) and .key, client.pem (its key in it, too)."""
    config = folder / "openssl.conf"
    config.write_text("[req]\ndistinguished_name = none\n[none]\n")

    def issue(name, key, subject, extensions, issuer=None):
        command = [openssl, "req", "-config", config, "-x509", "-newkey", *KEYS[key], "-nodes",
                   "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem",
                   "-days", "30", "-subj", f"/O=mooring bench/CN={subject}"]
        if issuer:
            command += ["-CA", folder / f"{issuer}.pem", "-CAkey", folder / f"{issuer}.key"]
        for extension in extensions:
            command += ["-addext", extension]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"openssl req ended with {done.returncode}: {done.stderr}")

    def join(name, *parts):
        text = "".join((folder / part).read_text() for part in parts)
        (folder / name).write_text(text)

    server = [*END, "extendedKeyUsage=serverAuth", f"subjectAltName=DNS:{NAME},IP:{address}"]
    for key in KEYS:
        issue(f"{key}-root", key, f"root {key}", AUTHORITY)
        issue(f"{key}-middle", key, f"intermediate {key}", AUTHORITY, f"{key}-root")
        issue(key, key, NAME, server, f"{key}-middle")
        join(f"{key}.pem", f"{key}.pem", f"{key}-middle.pem")
    issue("client", "ec", "client", [*END, "extendedKeyUsage=clientAuth"], "ec-middle")
    join("client.pem", "client.pem", "ec-middle.pem", "client.key")
    join("roots.pem", "ec-root.pem", "rsa-root.pem")
