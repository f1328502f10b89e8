"""Every certificate the tests of TLS look at, and what must come of each.

By itself it makes them all and says what there is:  tls_certs.py DIRECTORY
"""

import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Optional

from tls_authority import (CLIENT_CONF, SERVER_CONF, Certificate, Key, Staple, days, make_all,
                           run)

HOST = "www.harbour.test"
BOTH = ("TLSv1.2", "TLSv1.3")

# What the one line on standard error has to say, for each class of reasons.
REASONS = {
    "name": r"not for this host",
    "expired": r"expired|date after",
    "early": r"not valid yet|date before",
    "untrusted": r"no trusted authority",
    "weak": r"too short|can be forged",
    "signature": r"wrong signature",
    "authority": r"authority",
    "usage": r"not meant for servers|may not vouch for servers|may not be used for this",
    "critical": r"critical|extension",
    "constraint": r"may not sign for this name",
    "unsupported": r"TLS|certificate",
    "alert": r"the server's alert: handshake_failure",
    "pin": r"pin",
    "staple": r"OCSP",
    "revoked": r"revoked",
    "client": r"certificate|answered 400",
    "encrypted": r"encrypt|passphrase|password",
    "mismatch": r"not that of",
    "anchors": r"no certificate of an authority",
    "file": r"No such file",
}


@dataclass(eq=False)
class Case:
    name: str
    chain: list                    # as the server sends it, leaf first
    accepted: bool = True
    reason: str = ""               # of REASONS, when refused
    differs: str = ""              # why `openssl s_client` comes to the other verdict
    host: str = HOST
    anchors: Optional[list] = None  # None = the harbour's root
    key: Optional[Key] = None      # None = the leaf's
    versions: tuple = BOTH
    staple: Optional[Staple] = None
    pins: tuple = ()
    pin_chain: bool = False
    insecure: bool = False
    client: Optional[Certificate] = None  # ours ...
    client_key: Optional[object] = None   # ... and a key or a file that is not its own
    client_anchors: tuple = ()     # whom the server trusts; it then asks and insists
    anchors_file: Optional[Path] = None   # instead of what `anchors` says
    offline: bool = False          # refused before there is any connection
    warns: str = ""                # what is logged as well
    chain_file: Optional[Path] = None


class Harbour:
    """The authorities, and the cases; nothing is on disk before make()."""

    def __init__(self):
        self.keys, self.certificates, self.staples, self.cases = {}, [], [], []
        self.root = self.authority("Harbour Root")
        self.middle = self.authority("Harbour Intermediate", self.root, key=self.key("p256", 2))
        self.names()
        self.addresses()
        self.common_names()
        self.odd_names()
        self.dates()
        self.chains()
        self.authorities()
        self.roots()
        self.usages()
        self.constraints()
        self.key_kinds()
        self.signatures()
        self.pinning()
        self.stapling()
        self.client_certificates()
        self.without_verification()

    # ---- building ----

    def key(self, kind="p256", number=0):
        return self.keys.setdefault((kind, number), Key(kind, number))

    def certificate(self, *arguments, **settings):
        made = Certificate(*arguments, **settings)
        self.certificates.append(made)
        return made

    def authority(self, name, issuer=None, *, key=None, lines=None, **settings):
        if lines is None:
            lines = ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign")
        if lines:
            lines = (*lines, "subjectKeyIdentifier=hash")
        return self.certificate("/CN=" + name, key or self.key("p256", 1), issuer,
                                extensions=lines, **settings)

    def leaf(self, san=f"DNS:{HOST}", *, issuer="middle", subject="/CN=leaf", key=None, lines=(),
             identified=True, **settings):
        """An ordinary server's certificate but for what is given."""
        issuer = self.middle if issuer == "middle" else issuer
        extensions = list(lines)
        if not any("basicConstraints" in line for line in lines):
            extensions.append("basicConstraints=CA:FALSE")
        if not any("xtendedKeyUsage" in line for line in lines):
            extensions.append("extendedKeyUsage=serverAuth")
        if identified:
            extensions += ["subjectKeyIdentifier=hash"]
            extensions += ["authorityKeyIdentifier=keyid"] if issuer else []
        if san:
            extensions.append(f"subjectAltName={san}")
        return self.certificate(subject, key or self.key(), issuer,
                                extensions=tuple(line for line in extensions if line), **settings)

    def add(self, name, chain, accepted=True, **settings):
        """accepted: True, or the reason it is refused for."""
        if isinstance(chain, Certificate):
            chain = [chain, self.middle]
        reason = "" if accepted is True else accepted
        case = Case(name, chain, accepted is True, reason, **settings)
        self.cases.append(case)
        if case.staple:
            self.staples.append(case.staple)
        return case

    # ---- the name asked for, and the names in the certificate ----

    def names(self):
        good = self.good = self.leaf()
        self.add("name-right", good)
        self.add("name-wrong", self.leaf("DNS:other.harbour.test"), "name")
        self.add("name-prefix-only", self.leaf("DNS:www.harbour.test.evil.test"), "name")
        self.add("name-suffix-only", self.leaf("DNS:harbour.test"), "name")
        self.add("name-trailing-dot-in-url", good, host=HOST + ".",
                 differs="OpenSSL compares the dot that only says the name is complete")
        self.add("name-upper-case-in-certificate", self.leaf("DNS:WWW.Harbour.TEST"))
        self.add("name-upper-case-in-url", good, host="WWW.Harbour.TEST")
        self.add("name-second-of-two", self.leaf(f"DNS:other.test,DNS:{HOST}"))
        many = ",".join(f"DNS:n{i}.harbour.test" for i in range(99))
        self.add("name-last-of-100", self.leaf(f"{many},DNS:{HOST}"))
        self.add("name-none-of-100", self.leaf(f"{many},DNS:n99.harbour.test"), "name")
        self.add("name-underscore", self.leaf("DNS:my_ship.harbour.test"),
                 host="my_ship.harbour.test")

        def wildcard(name, san, host, accepted, **settings):
            self.add("wildcard-" + name, self.leaf(san), accepted, host=host, **settings)

        partial = "OpenSSL lets a wildcard be part of a label; RFC 9525 does not"
        wildcard("one-label", "DNS:*.harbour.test", HOST, True)
        wildcard("upper-case", "DNS:*.HARBOUR.test", HOST, True)
        wildcard("two-labels", "DNS:*.harbour.test", "a.b.harbour.test", "name")
        wildcard("bare-domain", "DNS:*.harbour.test", "harbour.test", "name")
        wildcard("partial-end", "DNS:w*.harbour.test", HOST, "name", differs=partial)
        wildcard("partial-start", "DNS:*w.harbour.test", HOST, "name", differs=partial)
        wildcard("partial-middle", "DNS:w*w.harbour.test", HOST, "name")
        wildcard("alone", "DNS:*", "harbour", "name")
        wildcard("under-tld", "DNS:*.test", "harbour.test", "name")
        wildcard("not-left-most", "DNS:www.*.test", HOST, "name")
        wildcard("twice", "DNS:*.*.harbour.test", "a.b.harbour.test", "name")
        wildcard("a-label", "DNS:*.harbour.test", "xn--bcher-kva.harbour.test", True)
        wildcard("inside-a-label", "DNS:xn--*.harbour.test", "xn--bcher-kva.harbour.test", "name")
        wildcard("in-url-is-no-wildcard", "DNS:www.harbour.test", "a.harbour.test", "name")

    def addresses(self):
        def address(name, san, host, accepted, **settings):
            self.add("ip-" + name, self.leaf(san), accepted, host=host, **settings)

        address("v4", "IP:127.0.0.1", "127.0.0.1", True)
        address("v4-other", "IP:127.0.0.2", "127.0.0.1", "name")
        address("v4-second", "DNS:a.test,IP:10.0.0.1,IP:127.0.0.1", "127.0.0.1", True)
        address("v6", "IP:::1", "[::1]", True)
        address("v6-long-form", "IP:::1", "[0:0:0:0:0:0:0:1]", True)
        address("v6-other", "IP:::2", "[::1]", "name")
        address("v4-mapped-in-certificate", "IP:::ffff:127.0.0.1", "127.0.0.1", "name")
        address("v4-as-dns-name", "DNS:127.0.0.1", "127.0.0.1", "name")
        address("v6-as-dns-name", "DNS:::1", "[::1]", "name")
        address("v4-by-wildcard", "DNS:*.0.0.1", "127.0.0.1", "name")
        address("certificate-for-a-name-only", f"DNS:{HOST}", "127.0.0.1", "name")
        address("certificate-for-an-address-only", "IP:127.0.0.1", HOST, "name")

    def common_names(self):
        only = "OpenSSL looks at the common name when there is no DNS name; RFC 9525 does not"
        self.add("cn-only", self.leaf(None, subject=f"/CN={HOST}"), "name", differs=only)
        self.add("cn-only-address", self.leaf(None, subject="/CN=127.0.0.1"), "name",
                 host="127.0.0.1")
        self.add("cn-right-but-san-differs",
                 self.leaf("DNS:other.test", subject=f"/CN={HOST}"), "name")
        self.add("cn-right-and-san-an-address",
                 self.leaf("IP:127.0.0.1", subject=f"/CN={HOST}"), "name", differs=only)
        self.add("cn-right-and-san-an-email",
                 self.leaf("email:a@harbour.test", subject=f"/CN={HOST}"), "name", differs=only)
        self.add("san-uri-only", self.leaf(f"URI:https://{HOST}/"), "name")

    def odd_names(self):
        def raw(*names):
            items = b"".join(bytes([0x82, len(name)]) + name for name in names)
            return "DER:" + (bytes([0x30, len(items)]) + items).hex()

        host = HOST.encode()
        for name, sans in (("nul", [host + b"\0.evil.test"]), ("nul-at-the-end", [host + b"\0"]),
                           ("space", [host + b" "]), ("newline", [host + b"\n"]),
                           ("leading-dot", [b".harbour.test"]), ("trailing-dot", [host + b"."]),
                           ("empty", [b""]), ("high-bit", [b"www.harbour.tes\xf4"])):
            self.add("san-" + name, self.leaf(raw(*sans)), "name")
        self.add("san-nul-beside-the-right-one", self.leaf(raw(b"a\0b", host)))

    # ---- when ----

    def dates(self):
        self.add("date-leaf-expired", self.leaf(ends=days(-1)), "expired")
        self.add("date-leaf-not-yet", self.leaf(begins=days(1)), "early")
        for name, settings, reason in (("expired", {"ends": days(-1)}, "expired"),
                                       ("not-yet", {"begins": days(1)}, "early")):
            middle = self.authority(f"Intermediate {name}", self.root, key=self.key("p256", 2),
                                    **settings)
            self.add(f"date-intermediate-{name}", [self.leaf(issuer=middle), middle], reason)
            root = self.authority(f"Root {name}", **settings)
            self.add(f"date-root-{name}", [self.leaf(issuer=root)], reason, anchors=[root])
        self.add("date-ends-in-2060", self.leaf(ends=datetime(2060, 1, 1, tzinfo=timezone.utc)))
        self.add("date-never-ends",
                 self.leaf(ends=datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone.utc)))
        self.add("date-since-1960", self.leaf(begins=datetime(1960, 1, 1, tzinfo=timezone.utc)))
        self.add("date-ends-in-five-days", self.leaf(ends=days(5)), warns=r"end|expir")
        self.add("date-outlives-its-issuer", self.leaf(ends=days(3000)))

    # ---- what the server sends along ----

    def chains(self):
        outer = self.outer = self.authority("Outer Intermediate", self.root,
                                            key=self.key("p256", 3))
        inner = self.inner = self.authority("Inner Intermediate", outer, key=self.key("p256", 4))
        leaf = self.leaf(issuer=inner)
        self.add("chain-two-intermediates", [leaf, inner, outer])
        self.add("chain-in-wrong-order", [leaf, outer, inner], "untrusted",
                 differs="wolfSSL reads a chain in the order in which it must be sent")
        self.add("chain-without-intermediate", [self.good], "untrusted")
        self.add("chain-without-outer-intermediate", [leaf, inner], "untrusted")
        self.add("chain-without-inner-intermediate", [leaf, outer], "untrusted")
        self.add("chain-with-root", [self.good, self.middle, self.root])
        self.add("chain-intermediate-twice", [self.good, self.middle, self.middle])
        self.add("chain-with-another-good-intermediate", [self.good, self.middle, outer])
        stranger_root = self.authority("Stranger Root", key=self.key("p256", 5))
        stranger = self.stranger = self.authority("Stranger", stranger_root,
                                                  key=self.key("p256", 6))
        self.add("chain-with-unrelated-certificate", [self.good, self.middle, stranger])
        self.add("chain-with-unrelated-root", [self.good, self.middle, stranger_root])
        other_leaf = self.leaf("DNS:other.test", subject="/CN=other", key=self.key("p256", 5))
        self.add("chain-with-another-leaf", [self.good, self.middle, other_leaf], "untrusted",
                 differs="wolfSSL wants an authority in every certificate but the first")
        self.add("chain-of-another-root", [self.leaf(issuer=stranger), stranger], "untrusted")
        self.add("chain-with-untrusted-root",
                 [self.leaf(issuer=stranger), stranger, stranger_root], "untrusted")
        self.add("chain-leaf-spoilt", self.leaf(spoilt=True), "signature")
        spoilt = self.authority("Harbour Intermediate", self.root, key=self.key("p256", 2),
                                spoilt=True)
        self.add("chain-intermediate-spoilt", [self.leaf(issuer=spoilt), spoilt], "signature")

    def authorities(self):
        short = self.authority("Short Path", self.root, key=self.key("p256", 3), lines=(
            "basicConstraints=critical,CA:TRUE,pathlen:0", "keyUsage=critical,keyCertSign"))
        below = self.authority("Below Short Path", short, key=self.key("p256", 4))
        self.add("pathlen-kept", [self.leaf(issuer=short), short])
        self.add("pathlen-exceeded", [self.leaf(issuer=below), below, short], "authority")
        root = self.authority("Short Root", lines=(
            "basicConstraints=critical,CA:TRUE,pathlen:0", "keyUsage=critical,keyCertSign"))
        middle = self.authority("Below Short Root", root, key=self.key("p256", 3))
        self.add("pathlen-of-root-exceeded", [self.leaf(issuer=middle), middle], "authority",
                 anchors=[root])

        def issuer(name, lines, accepted, **settings):
            ca = self.authority("Issuer " + name, self.root, key=self.key("p256", 3), lines=lines)
            self.add("issuer-" + name, [self.leaf(issuer=ca, identified=False), ca], accepted,
                     **settings)

        issuer("not-ca", ("basicConstraints=CA:FALSE", "keyUsage=digitalSignature"), "authority")
        issuer("not-ca-but-may-sign", ("basicConstraints=CA:FALSE", "keyUsage=keyCertSign"),
               "authority")
        issuer("without-basic-constraints", ("keyUsage=keyCertSign",), "authority")
        issuer("without-key-cert-sign", ("basicConstraints=critical,CA:TRUE", "keyUsage=cRLSign"),
               "authority")
        issuer("without-key-usage", ("basicConstraints=critical,CA:TRUE",), "authority",
               differs="wolfSSL wants it said that an intermediate may sign, as RFC 5280 demands "
               "of authorities")
        issuer("version-1", (), "authority")
        victim = self.leaf("DNS:victim.test", subject="/CN=victim", key=self.key("p256", 3))
        self.add("issuer-is-a-leaf",
                 [self.leaf(issuer=victim), victim, self.middle], "authority")
        self.add("leaf-is-an-authority", self.leaf(lines=("basicConstraints=critical,CA:TRUE",)))

    # ---- whom we trust ----

    def roots(self):
        lone = self.leaf(issuer=None, subject="/CN=lone")
        self.add("self-signed", [lone], "untrusted")
        self.add("self-signed-and-trusted", [lone], anchors=[lone])
        other = self.leaf(issuer=None, subject="/CN=lone", key=self.key("p256", 5))
        self.add("self-signed-but-another-trusted", [lone], "untrusted|signature",
                 anchors=[other])
        self.add("intermediate-trusted", [self.good], anchors=[self.middle],
                 differs="OpenSSL wants the chain to go on to a root, without -partial_chain")
        self.add("leaf-trusted-but-not-self-signed", [self.good], "untrusted", anchors=[self.good])

        twin = self.authority("Harbour Root", key=self.key("p256", 7))
        self.add("root-of-same-name-other-key", self.good, "untrusted", anchors=[twin])
        self.add("root-and-its-twin", self.good, anchors=[self.root, twin])
        self.add("root-after-its-twin", self.good, anchors=[twin, self.root])

        key = self.key("p256", 8)
        old = self.authority("Old Root", key=self.key("p256", 7))
        new = self.authority("New Root", key=key)
        crossed = self.authority("New Root", old, key=key)
        middle = self.authority("New Intermediate", new, key=self.key("p256", 9))
        leaf = self.leaf(issuer=middle)
        for name, anchors in (("old-trusted", [old]), ("new-trusted", [new]),
                              ("both-trusted", [old, new])):
            self.add("cross-signed-" + name, [leaf, middle, crossed], anchors=anchors)
        dead = self.authority("Dead Root", key=self.key("p256", 7), begins=days(-400),
                              ends=days(-1))
        crossed = self.authority("New Root", dead, key=key)
        self.add("cross-signed-by-an-expired-root", [leaf, middle, crossed], anchors=[new, dead])
        ended = self.authority("New Root", old, key=key, begins=days(-400), ends=days(-1))
        self.add("cross-signature-expired", [leaf, middle, ended], anchors=[new])
        self.add("roots-file-of-many", self.good, anchors=[old, new, dead, twin, self.root])
        self.add("roots-file-without-any", self.good, "anchors", anchors=[], offline=True)
        self.add("roots-file-missing", self.good, "file", anchors_file=Path("/nonexistent/roots"),
                 offline=True)

    # ---- what it may be used for ----

    def usages(self):
        for name, line, accepted, differs in (
                ("eku-server", "extendedKeyUsage=serverAuth", True, ""),
                ("eku-client-only", "extendedKeyUsage=clientAuth", "usage", ""),
                ("eku-both", "extendedKeyUsage=clientAuth,serverAuth", True, ""),
                ("eku-any", "extendedKeyUsage=anyExtendedKeyUsage", True,
                 "OpenSSL wants the server's purpose by name"),
                ("eku-other", "extendedKeyUsage=emailProtection", "usage", ""),
                ("eku-client-only-critical", "extendedKeyUsage=critical,clientAuth", "usage", ""),
                ("ku-signature", "keyUsage=critical,digitalSignature", True, ""),
                ("extension-critical-unknown", "1.2.3.4.5=critical,ASN1:NULL", "critical", ""),
                ("extension-unknown", "1.2.3.4.5=ASN1:NULL", True, "")):
            self.add(name, self.leaf(lines=(line,)), accepted, differs=differs)
        self.add("eku-none", self.certificate_without_eku())
        # Before TLS 1.3, OpenSSL's servers do not show these.
        self.add("ku-crl-only", self.leaf(lines=("keyUsage=critical,cRLSign",)), "usage",
                 versions=("TLSv1.3",))
        self.add("ku-agreement-only", self.leaf(lines=("keyUsage=critical,keyAgreement",)), "usage",
                 versions=("TLSv1.3",), differs="OpenSSL is content with any usage of TLS before "
                 "1.3, which wants digitalSignature")
        usual = ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign")
        for name, line, accepted in (
                ("critical-unknown", "1.2.3.4.5=critical,ASN1:NULL", "critical"),
                ("eku-server", "extendedKeyUsage=serverAuth", True),
                ("eku-client-only", "extendedKeyUsage=clientAuth", "usage")):
            ca = self.authority("Special " + name, self.root, key=self.key("p256", 3),
                                lines=(*usual, line))
            self.add("intermediate-" + name, [self.leaf(issuer=ca), ca], accepted)

    def certificate_without_eku(self):
        return self.certificate("/CN=leaf", self.key(), self.middle, extensions=(
            "basicConstraints=CA:FALSE", f"subjectAltName=DNS:{HOST}"))

    def constraints(self):
        usual = ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign")

        def constrained(name, text, accepted, san=f"DNS:{HOST}", by_root=False, **settings):
            line = f"nameConstraints=critical,{text}"
            if by_root:
                root = self.authority("Constrained Root " + name, lines=(*usual, line))
                chain, anchors = [self.leaf(san, issuer=root)], [root]
            else:
                ca = self.authority("Constrained " + name, self.root, key=self.key("p256", 3),
                                    lines=(*usual, line))
                chain, anchors = [self.leaf(san, issuer=ca), ca], None
            self.add("constraint-" + name, chain, accepted, anchors=anchors, **settings)

        constrained("permitted-kept", "permitted;DNS:harbour.test", True)
        constrained("permitted-violated", "permitted;DNS:elsewhere.test", "constraint")
        constrained("permitted-violated-by-another-name", "permitted;DNS:harbour.test",
                    "constraint", san=f"DNS:{HOST},DNS:evil.test")
        constrained("excluded-kept", "excluded;DNS:elsewhere.test", True)
        constrained("excluded-violated", "excluded;DNS:harbour.test", "constraint")
        constrained("permitted-of-root-violated", "permitted;DNS:elsewhere.test", "constraint",
                    by_root=True)
        constrained("address-kept", "permitted;IP:127.0.0.0/255.0.0.0", True, san="IP:127.0.0.1",
                    host="127.0.0.1")
        constrained("address-violated", "permitted;IP:10.0.0.0/255.0.0.0", "constraint",
                    san="IP:127.0.0.1", host="127.0.0.1")
        constrained("excluded-by-wildcard", "excluded;DNS:www.harbour.test", "constraint",
                    san="DNS:*.harbour.test",
                    differs="OpenSSL compares the pattern; what it stands for is excluded")

    # ---- keys and signatures ----

    def key_kinds(self):
        for kind in ("rsa2048", "rsa3072", "rsa4096", "p384", "ed25519"):
            self.add("key-" + kind, self.leaf(key=self.key(kind)))
        large = self.leaf(key=self.key("p521"))
        self.add("key-p521", large, versions=("TLSv1.3",))
        self.add("key-p521-before-tls13", large, "alert", versions=("TLSv1.2",),
                 differs="we offer no key exchange over P-521, which in TLS 1.2 also rules out keys")
        self.add("key-rsa1024", self.leaf(key=self.key("rsa1024")), "weak")
        self.add("key-p192", self.leaf(key=self.key("p192")), "alert", versions=("TLSv1.2",))
        self.add("key-rsa-pss-only", self.leaf(key=self.key("pss2048")), "unsupported",
                 differs="wolfSSL 5.5.4 knows no keys of this type")
        for kind in ("rsa1024", "rsa2048", "p384", "ed25519"):
            ca = self.authority("Authority " + kind, self.root, key=self.key(kind, 1))
            accepted = "weak" if kind == "rsa1024" else True
            self.add("authority-" + kind, [self.leaf(issuer=ca), ca], accepted)
        for kind in ("rsa2048", "ed25519", "p521"):
            root = self.authority("Root " + kind, key=self.key(kind, 1))
            self.add("root-" + kind, [self.leaf(issuer=root)], anchors=[root])

    def signatures(self):
        rsa = self.key("rsa2048", 1)
        ca = self.authority("RSA Authority", self.root, key=rsa)
        for digest, accepted in (("sha256", True), ("sha384", True), ("sha512", True),
                                 ("sha1", "weak"), ("md5", "weak")):
            self.add("signature-rsa-" + digest, [self.leaf(issuer=ca, digest=digest), ca], accepted)
        self.add("signature-ecdsa-sha384", self.leaf(digest="sha384"))
        self.add("signature-ecdsa-sha1", self.leaf(digest="sha1"), "weak")
        self.add("signature-pss-sha256",
                 [self.leaf(issuer=ca, digest="sha256", pss=True), ca])
        rsa_root = self.authority("RSA Root", key=rsa)
        for digest in ("sha1", "md5"):
            middle = self.authority("Intermediate " + digest, rsa_root, key=self.key("p256", 3),
                                    digest=digest)
            self.add(f"signature-of-intermediate-{digest}", [self.leaf(issuer=middle), middle],
                     "weak", anchors=[rsa_root])
            root = self.authority("Root " + digest, key=rsa, digest=digest)
            leaf = self.leaf(issuer=root, digest="sha256")
            self.add(f"signature-of-root-{digest}", [leaf], anchors=[root])
            self.add(f"signature-of-root-{digest}-sent-along", [leaf, root], anchors=[root])

    # ---- pins ----

    def pinning(self):
        key, other = self.key(), self.key("p256", 5)
        only_leaf = "OpenSSL was not told of the pin"
        self.add("pin-of-leaf", self.good, pins=(key,))
        self.add("pin-wrong", self.good, "pin", pins=(other,), differs=only_leaf)
        self.add("pin-backup", self.good, pins=(other, key))
        self.add("pin-of-untrusted-leaf", [self.good], "untrusted", pins=(key,))
        rsa = self.key("rsa2048")
        self.add("pin-of-rsa-leaf", self.leaf(key=rsa), pins=(rsa,))
        ed = self.key("ed25519")
        self.add("pin-of-ed25519-leaf", self.leaf(key=ed), pins=(ed,))
        middle, root = self.middle.key, self.root.key
        self.add("pin-of-intermediate", self.good, pins=(middle,), pin_chain=True)
        self.add("pin-of-intermediate-without-chain", self.good, "pin", pins=(middle,),
                 differs=only_leaf)
        self.add("pin-of-outer-intermediate", [self.leaf(issuer=self.inner), self.inner, self.outer],
                 pins=(self.outer.key,), pin_chain=True)
        self.add("pin-of-root", self.good, pins=(root,), pin_chain=True)
        self.add("pin-of-root-sent-along", [self.good, self.middle, self.root], pins=(root,),
                 pin_chain=True)
        self.add("pin-of-leaf-with-chain", self.good, pins=(key,), pin_chain=True)
        self.add("pin-in-no-chain", self.good, "pin", pins=(other,), pin_chain=True,
                 differs=only_leaf)
        # What is only sent along proves nothing: anyone can send it.
        self.add("pin-of-appended-intermediate", [self.good, self.middle, self.outer], "pin",
                 pins=(self.outer.key,), pin_chain=True, differs=only_leaf)
        self.add("pin-of-inserted-intermediate", [self.good, self.outer, self.middle], "pin",
                 pins=(self.outer.key,), pin_chain=True, differs=only_leaf)
        self.add("pin-of-appended-stranger", [self.good, self.middle, self.stranger],
                 "pin|untrusted", pins=(self.stranger.key,), pin_chain=True, differs=only_leaf)
        theirs = self.leaf("DNS:victim.test", subject="/CN=victim", key=other)
        self.add("pin-of-appended-leaf", [self.good, self.middle, theirs], "pin|untrusted",
                 pins=(other,), pin_chain=True, differs=only_leaf)
        self.add("pin-of-appended-leaf-with-anchor", [self.good, theirs], "pin", pins=(other,),
                 pin_chain=True, anchors=[self.root, self.middle], differs=only_leaf)
        for name, text in (("not-base64", "sha256/!!!!"), ("short", "sha256/AAAA"),
                           ("unknown-digest", "sha1/" + "A" * 43 + "="),
                           ("without-digest", "A" * 43 + "="),
                           ("second-bad", "sha256/" + "A" * 43 + "=,sha256/oops")):
            self.add("pin-malformed-" + name, self.good, "pin", pins=(text,), offline=True)

    # ---- OCSP responses sent along ----

    def stapling(self):
        rsa = self.key("rsa2048", 1)
        ca = self.authority("Stapling Authority", self.root, key=rsa)
        must = ("tlsfeature=status_request",)

        def stapled(name, accepted, lines=must, staple=None, **settings):
            leaf = self.leaf(issuer=ca, lines=lines)
            self.add("staple-" + name, [leaf, ca], accepted,
                     staple=staple(leaf) if staple else None, **settings)

        other = self.leaf(issuer=ca, subject="/CN=other")
        stapled("must-but-none", "staple", differs="OpenSSL does not look at this extension")
        stapled("must-and-good", True, staple=Staple)
        stapled("may-and-good", True, lines=(), staple=Staple)
        for name, lines in (("must", must), ("may", ())):
            stapled(name + "-and-revoked", "revoked", lines,
                    lambda leaf: Staple(leaf, "R"))
        stapled("must-and-unknown", "staple", staple=lambda leaf: Staple(leaf, None))
        stapled("must-and-expired", "staple", staple=lambda leaf: Staple(leaf, expired=True))
        stapled("must-and-about-another", "staple", staple=lambda leaf: Staple(leaf, about=other))
        stapled("must-and-signed-by-another", "staple",
                staple=lambda leaf: Staple(leaf, signer=self.outer))
        stapled("must-and-spoilt", "staple", staple=lambda leaf: Staple(leaf, spoilt=True))
        responder = self.leaf(None, issuer=ca, subject="/CN=responder", key=self.key("rsa2048"),
                              lines=("extendedKeyUsage=OCSPSigning",))
        stapled("must-and-delegated", True, staple=lambda leaf: Staple(leaf, signer=responder))
        lone = self.leaf(None, issuer=ca, subject="/CN=no responder", key=self.key("p256", 5))
        stapled("must-and-delegated-to-anyone", "staple",
                staple=lambda leaf: Staple(leaf, signer=lone))

    # ---- our own certificate ----

    def client_certificates(self):
        crew = self.crew = self.authority("Crew", key=self.key("p256", 7))
        mate = self.mate = self.leaf(None, issuer=crew, subject="/CN=mate", key=self.key("p256", 8),
                                     lines=("extendedKeyUsage=clientAuth",))
        rsa_mate = self.leaf(None, issuer=crew, subject="/CN=mate", key=self.key("rsa2048"),
                             lines=("extendedKeyUsage=clientAuth",))
        pirate = self.leaf(None, subject="/CN=pirate", key=self.key("p256", 8),
                           lines=("extendedKeyUsage=clientAuth",))
        asked = {"client_anchors": (crew,)}
        self.add("client-right", self.good, client=mate, **asked)
        self.add("client-right-rsa", self.good, client=rsa_mate, **asked)
        self.add("client-missing", self.good, "client", **asked)
        self.add("client-of-another-authority", self.good, "client", client=pirate, **asked)
        self.add("client-not-asked-for", self.good, client=mate)
        self.add("client-key-of-another", self.good, "mismatch", client=mate,
                 client_key=self.key("p256", 5), offline=True)
        self.add("client-key-encrypted", self.good, "encrypted", client=mate,
                 client_key="encrypted.key", offline=True)
        self.add("client-key-missing", self.good, "file", client=mate,
                 client_key="/nonexistent/key", offline=True)

    def without_verification(self):
        warned = {"insecure": True, "warns": r"insecure|not verif|verification"}
        told = "OpenSSL was told to verify"
        self.add("insecure-self-signed", [self.leaf(issuer=None, subject="/CN=lone")],
                 differs=told, **warned)
        self.add("insecure-wrong-name", self.leaf("DNS:other.test"), differs=told, **warned)
        self.add("insecure-expired", self.leaf(ends=days(-1)), differs=told, **warned)
        self.add("insecure-and-good", self.good, **warned)

    # ---- on disk ----

    def make(self, directory):
        directory = Path(directory)
        (directory / "server.cnf").write_text(SERVER_CONF)
        (directory / "client.cnf").write_text(CLIENT_CONF)
        make_all(directory, list(self.keys.values()), self.certificates, self.staples)
        for case in self.cases:
            case.chain_file = directory / f"{case.name}.chain"
            case.chain_file.write_text("".join(c.text() for c in case.chain))
            case.key = case.key or case.chain[0].key
            if not case.anchors_file:
                anchors = [self.root] if case.anchors is None else case.anchors
                case.anchors_file = directory / f"{case.name}.roots"
                case.anchors_file.write_text("".join(c.text() for c in anchors))
            case.pins = tuple(p if isinstance(p, str) else p.pin() for p in case.pins)
        run("openssl", "pkey", "-in", self.mate.key.path, "-aes128", "-passout", "pass:keelhaul",
            "-out", directory / "encrypted.key")


def main():
    started = datetime.now(timezone.utc)
    harbour = Harbour()
    harbour.make(Path(sys.argv[1]).resolve())
    for case in harbour.cases:
        print(f"{case.name:45} {case.reason or 'accepted':12} {case.differs}")
    print(f"{len(harbour.cases)} cases, {len(harbour.certificates)} certificates, "
          f"{(datetime.now(timezone.utc) - started).total_seconds():.1f} s")


if __name__ == "__main__":
    main()
