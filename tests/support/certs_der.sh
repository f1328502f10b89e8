#!/bin/sh
# Writes certs_der.h anew: one certificate of every kind a client meets, made by OpenSSL 3.
#   tests/support/certs_der.sh > tests/support/certs_der.h
# Keys are drawn afresh and thrown away; tests know the names, dates and sizes below, and read key
# identifiers from the bytes.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"

key() { # file, genpkey's arguments
    out=$1
    shift
    openssl genpkey -out "$out" "$@" 2>/dev/null
}

key rsa -algorithm RSA -pkeyopt rsa_keygen_bits:2048
key rsa1024 -algorithm RSA -pkeyopt rsa_keygen_bits:1024
key pss -algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048
key p256 -algorithm EC -pkeyopt ec_paramgen_curve:P-256
key p384 -algorithm EC -pkeyopt ec_paramgen_curve:P-384
key p521 -algorithm EC -pkeyopt ec_paramgen_curve:P-521
key k256 -algorithm EC -pkeyopt ec_paramgen_curve:secp256k1
key ed25519 -algorithm ED25519
key ed448 -algorithm ED448

# "ca", since it is the one command of 3.0 that takes dates.
cat >ca.cnf <<'END'
[ca]
default_ca = here
[here]
database = index
new_certs_dir = .
rand_serial = yes
default_md = sha256
policy = any
unique_subject = no
preserve = yes
[any]
countryName = optional
organizationName = optional
commonName = optional
[req]
distinguished_name = empty
[empty]
END

begun=no
cert() { # name, key, subject, first second, last second, extensions, arguments for ca
    name=$1 with=$2 subject=$3 first=$4 last=$5 extensions=$6
    shift 6
    : >index
    openssl req -new -config ca.cnf -key "$with" -subj "$subject" -utf8 -out request
    set -- -batch -notext -config ca.cnf -in request -startdate "$first" -enddate "$last" "$@"
    if [ -n "$extensions" ]; then
        printf '[ext]\n%b' "$extensions" >ext.cnf
        set -- "$@" -extfile ext.cnf -extensions ext
    fi
    openssl ca -selfsign -keyfile "$with" "$@" -out pem 2>log || { cat log >&2; exit 1; }
    [ $begun = no ] || echo
    begun=yes
    echo "static const unsigned char der_$name[] = {"
    openssl x509 -in pem -outform DER | xxd -i -c 16 | sed 's/^ */    /'
    echo "};"
}

from=240101000000Z
to=340101000000Z
leaf='subjectAltName=DNS:localhost\n'

cat <<'END'
/*
 * One certificate of every kind a client meets, by certs_der.sh beside this file. Self-signed, from
 * 2024-01-01 to 2034-01-01 unless the name says otherwise.
 */
#ifndef TESTS_CERTS_DER_H
#define TESTS_CERTS_DER_H

/* clang-format off */
END
cert rsa rsa "/O=Acme/CN=localhost" $from $to \
    'subjectAltName=DNS:localhost,DNS:*.example.org\nsubjectKeyIdentifier=hash\n'
cert rsa1024 rsa1024 /CN=localhost $from $to $leaf
cert rsa_sha1 rsa1024 /CN=localhost $from $to $leaf -md sha1
cert rsa_md5 rsa1024 /CN=localhost $from $to $leaf -md md5
cert rsa_signed_by_pss rsa1024 /CN=localhost $from $to $leaf \
    -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:32
cert pss pss /CN=localhost $from $to $leaf
cert pss_sha1 rsa1024 /CN=localhost $from $to $leaf -md sha1 -sigopt rsa_padding_mode:pss
cert p256 p256 /CN=localhost $from $to $leaf
cert p256_sha1 p256 /CN=localhost $from $to $leaf -md sha1
cert p384 p384 /CN=localhost $from $to $leaf -md sha384
cert p521 p521 /CN=localhost $from $to $leaf -md sha512
cert secp256k1 k256 /CN=localhost $from $to $leaf
cert ed25519 ed25519 /CN=localhost $from $to $leaf -md null
cert ed448 ed448 /CN=localhost $from $to $leaf -md null
cert v1 p256 /CN=localhost $from $to ''
cert no_san p256 /CN=localhost $from $to 'keyUsage=critical,digitalSignature\n'
cert must_staple p256 /CN=localhost $from $to "${leaf}tlsfeature=status_request,status_request_v2\n"
cert ips p256 /CN=127.0.0.1 $from $to \
    'subjectAltName=IP:127.0.0.1,IP:::1,IP:2001:db8::5,DNS:192.0.2.1\n'
cert all_names p256 /CN=localhost $from $to \
    'subjectAltName=otherName:1.2.3;UTF8:a,email:a@example.org,URI:https://a/,RID:1.2.3,dirName:dir,DNS:localhost\n[dir]\nCN=a\n'
cert 1949_to_end p256 /CN=localhost 19491231235959Z 99991231235959Z $leaf
cert 2049_to_2050 p256 /CN=localhost 491231235959Z 20500101000000Z $leaf
cert ca p256 "/C=DE/O=Acme, Inc./CN=Acmé Root" $from $to \
    'basicConstraints=critical,CA:true,pathlen:3\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid:always,issuer:always\nkeyUsage=critical,keyCertSign\n'
cat <<'END'
/* clang-format on */

#endif
END
