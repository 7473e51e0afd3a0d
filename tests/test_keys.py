"""Keys: made once, readable to their owner alone, and refused wherever they are not what signing needs."""

from __future__ import annotations

import hashlib
import re
import shutil
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from midguard.engine.errors import InputError
from midguard.engine.keys import Signer, fingerprint, load_public_key, load_signer, new_key

PASSPHRASE = b"correct horse"
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


def certificate_of(key, until: datetime, name: str = "Someone") -> x509.Certificate:
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder(who, who, key.public_key(), 1).not_valid_before(until - timedelta(days=30))
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.not_valid_after(until).sign(key, algorithm)


def write_pair(folder: Path, key, certificate: x509.Certificate) -> Path:
    path = folder / "signer.key"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    path.with_suffix(".crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    return path


def openssl(*arguments: str | Path) -> bytes:
    return subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True).stdout


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
def test_a_new_key_comes_back_as_the_signer_it_was_made_for(tmp_path, passphrase):
    path = new_key(tmp_path / "keys", "Zoë Müller", passphrase)
    signer = load_signer(path, passphrase)
    assert signer.name == "Zoë Müller"
    assert signer.public_pem == (tmp_path / "keys" / "signer.pub").read_bytes()
    assert (b"ENCRYPTED" in path.read_bytes()) == (passphrase is not None)


def test_the_private_key_is_for_its_owner_alone_and_never_overwritten(tmp_path):
    path = new_key(tmp_path, "Someone", None)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    with pytest.raises(InputError, match="exists and is never overwritten"):
        new_key(tmp_path, "Someone", None)
    assert path.read_bytes() == before


@pytest.mark.parametrize("suffix", [".key", ".crt", ".pub"])
def test_any_file_of_a_key_in_the_way_is_kept(tmp_path, suffix):
    kept = tmp_path / f"signer{suffix}"
    kept.write_bytes(b"precious")
    with pytest.raises(InputError, match="never overwritten"):
        new_key(tmp_path, "Someone", None)
    assert [p.name for p in tmp_path.iterdir()] == [kept.name]
    assert kept.read_bytes() == b"precious"


def test_a_link_that_points_nowhere_is_not_written_through(tmp_path):
    (tmp_path / "signer.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="never overwritten"):
        new_key(tmp_path, "Someone", None)
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_where_the_folder_should_be_is_bad_input(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="cannot write a key"):
        new_key(tmp_path / "file", "Someone", None)


@pytest.mark.parametrize("name", ["", "  ", "x" * 65, "two\nlines"])
def test_a_name_that_no_certificate_can_carry_is_bad_input(tmp_path, name):
    with pytest.raises(InputError, match="the signer's name"):
        new_key(tmp_path, name, None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("passphrase", [b"", b"x" * 1024])
def test_a_passphrase_that_would_not_protect_or_not_open_is_bad_input(tmp_path, passphrase):
    with pytest.raises(InputError, match="the passphrase"):
        new_key(tmp_path, "Someone", passphrase)
    assert not list(tmp_path.iterdir())


def test_the_certificate_is_for_signatures_alone_for_ten_years(tmp_path):
    certificate = load_signer(new_key(tmp_path, "Someone", None), None).certificate
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert usage.content_commitment
    assert not usage.key_cert_sign
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    years = (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days / 365.25
    assert 9.99 < years < 10.01
    certificate.verify_directly_issued_by(certificate)


@needs_openssl
def test_openssl_reads_the_three_files_and_finds_the_same_fingerprint(tmp_path):
    signer = load_signer(new_key(tmp_path, "Someone", PASSPHRASE), PASSPHRASE)
    der = openssl("pkey", "-pubin", "-in", tmp_path / "signer.pub", "-outform", "DER")
    assert hashlib.sha256(der).hexdigest() == signer.fingerprint
    private = openssl("pkey", "-in", tmp_path / "signer.key", "-passin", "pass:correct horse", "-pubout")
    certified = openssl("x509", "-in", tmp_path / "signer.crt", "-noout", "-pubkey")
    assert private == certified == signer.public_pem


def test_the_public_key_is_the_same_from_pub_and_certificate(tmp_path):
    signer = load_signer(new_key(tmp_path, "Someone", None), None)
    for name in ("signer.pub", "signer.crt"):
        assert fingerprint(load_public_key(tmp_path / name)) == signer.fingerprint


@pytest.mark.parametrize(
    ("made_with", "opened_with", "message"),
    [
        (PASSPHRASE, None, "it has a passphrase and none was given"),
        (PASSPHRASE, b"", "it has a passphrase and none was given"),
        (PASSPHRASE, b"wrong", "wrong passphrase"),
        (None, PASSPHRASE, "it has no passphrase"),
    ],
)
def test_the_wrong_passphrase_opens_nothing(tmp_path, made_with, opened_with, message):
    path = new_key(tmp_path, "Someone", made_with)
    with pytest.raises(InputError, match=message):
        load_signer(path, opened_with)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_a_key_open_to_others_is_refused_with_the_command_that_closes_it(tmp_path, mode):
    path = new_key(tmp_path, "Someone", None)
    path.chmod(mode)
    with pytest.raises(InputError, match=re.escape(f"run: chmod 600 {path}")):
        load_signer(path, None)
    path.chmod(0o400)
    assert load_signer(path, None).name == "Someone"


@pytest.mark.parametrize(
    "make",
    [
        ed25519.Ed25519PrivateKey.generate,
        lambda: ec.generate_private_key(ec.SECP384R1()),
        lambda: ec.generate_private_key(ec.SECP256K1()),
        lambda: rsa.generate_private_key(65537, 2048),
    ],
    ids=["ed25519", "p384", "k1", "rsa"],
)
def test_a_key_that_is_not_p256_is_refused(tmp_path, make):
    key = make()
    path = write_pair(tmp_path, key, certificate_of(key, datetime.now(UTC) + timedelta(days=30)))
    with pytest.raises(InputError, match="expected a P-256 key"):
        load_signer(path, None)
    with pytest.raises(InputError, match="expected a P-256 key"):
        load_public_key(path.with_suffix(".crt"))


def test_a_certificate_of_another_key_is_refused(tmp_path):
    mine, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    path = write_pair(tmp_path, mine, certificate_of(other, datetime.now(UTC) + timedelta(days=30)))
    with pytest.raises(InputError, match="not the certificate of"):
        load_signer(path, None)
    with pytest.raises(ValueError, match="of another key"):
        Signer(mine, certificate_of(other, datetime.now(UTC)))
    with pytest.raises(ValueError, match="expected a P-256 key"):
        Signer(mine, certificate_of(ed25519.Ed25519PrivateKey.generate(), datetime.now(UTC)))
    p384 = ec.generate_private_key(ec.SECP384R1())
    with pytest.raises(ValueError, match="expected a P-256 key"):
        Signer(p384, certificate_of(p384, datetime.now(UTC)))


def test_an_expired_certificate_is_refused_one_that_is_valid_until_tomorrow_is_not(tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    path = write_pair(tmp_path, key, certificate_of(key, datetime.now(UTC) - timedelta(days=1)))
    with pytest.raises(InputError, match="expired on"):
        load_signer(path, None)
    write_pair(tmp_path, key, certificate_of(key, datetime.now(UTC) + timedelta(days=1)))
    assert load_signer(path, None).name == "Someone"


def test_a_signer_without_a_common_name_has_an_empty_one():
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Clinic")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(who, who, key.public_key(), 1).not_valid_before(now).not_valid_after(now)
    assert Signer(key, builder.sign(key, hashes.SHA256())).name == ""


@pytest.mark.parametrize("missing", ["signer.key", "signer.crt"])
def test_a_missing_file_is_named(tmp_path, missing):
    path = new_key(tmp_path, "Someone", None)
    (tmp_path / missing).unlink()
    with pytest.raises(InputError, match=missing):
        load_signer(path, None)


@pytest.mark.parametrize("broken", ["signer.key", "signer.crt"])
@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff" * 50, b"-----BEGIN PRIVATE KEY-----\nAAAA\n", b"x" * ((1 << 20) + 1)]
)
def test_a_broken_file_is_bad_input(tmp_path, broken, content):
    path = new_key(tmp_path, "Someone", None)
    (tmp_path / broken).write_bytes(content)
    with pytest.raises(InputError, match=broken):
        load_signer(path, None)


def test_a_private_key_named_as_the_public_one_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"this is a private key, name the public one"):
        load_public_key(new_key(tmp_path, "Someone", None))


@pytest.mark.parametrize(
    "content", [b"", b"ssh-ed25519 AAAA", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_what_is_no_public_key_is_bad_input(tmp_path, content):
    path = tmp_path / "signer.pub"
    path.write_bytes(content)
    with pytest.raises(InputError, match="expected a public key or certificate"):
        load_public_key(path)
    with pytest.raises(InputError, match="no such file"):
        load_public_key(tmp_path)


def test_a_public_key_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "signer.pub"
    key = ed25519.Ed25519PrivateKey.generate().public_key()
    path.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(InputError, match="expected a P-256 key, found Ed25519PublicKey"):
        load_public_key(path)
