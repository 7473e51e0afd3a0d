"""Signing keys: ECDSA on P-256, the one curve that DSSE tools, PDF viewers and openssl all accept.

`signer.key` stays with whoever signs; `signer.crt` (a certificate that vouches only for itself) travels inside the PDF;
`signer.pub` is what an auditor must receive from the signer by another way than the report.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from cryptography.x509.oid import NameOID

from .errors import InputError

YEARS_VALID = 10
LONGEST_NAME = 64  # of a common name, X.520 ub-common-name
LONGEST_PASSPHRASE = 1023  # bytes; OpenSSL takes no more
LARGEST_FILE = 1 << 20  # bytes; a key or certificate has about a thousand
_HOW_TO_MAKE = "make one with 'midguard keys new'"


@dataclass(frozen=True, slots=True)
class Signer:
    """Whoever signs: a P-256 private key and the certificate of the same key.

    Attributes:
        key: The private key.
        certificate: Its certificate; the common name is the signer's name.
    """

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def __post_init__(self) -> None:
        if self.key.curve.name != ec.SECP256R1.name:
            raise ValueError(f"expected a P-256 key, found the curve {self.key.curve.name}")
        if _spki(self.certificate.public_key()) != _spki(self.key.public_key()):
            raise ValueError("the certificate is of another key")

    @property
    def name(self) -> str:
        """The certificate's common name; empty where it has none."""
        names = self.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return str(names[0].value) if names else ""

    @property
    def public_pem(self) -> bytes:
        """The public key as SubjectPublicKeyInfo PEM, the bytes of `signer.pub`."""
        return to_pem(self.key.public_key())

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the public key's SubjectPublicKeyInfo, lower-case hex."""
        return fingerprint(self.key.public_key())


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """SHA-256 of the key's SubjectPublicKeyInfo in DER, lower-case hex."""
    return hashlib.sha256(_spki(key)).hexdigest()


def to_pem(key: ec.EllipticCurvePublicKey) -> bytes:
    """The public key as SubjectPublicKeyInfo PEM."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def new_key(folder: Path, name: str, passphrase: bytes | None) -> Path:
    """Make a signing key and write `signer.key`, `signer.crt` and `signer.pub`; never overwrites one.

    Args:
        folder: Where to; made if it is missing.
        name: Who signs, as it will stand in the PDF's signature.
        passphrase: Encrypts the private key; None leaves it readable to whoever can read the file.

    Returns:
        The path of the private key.

    Raises:
        InputError: The name or passphrase cannot be used, one of the files exists, or the folder cannot be written.
    """
    _check_name(name)
    encryption = _encryption(passphrase)
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    path = folder / "signer.key"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_existing(folder)
        _write_new(path, private, 0o600)
        _write_new(path.with_suffix(".crt"), _self_signed(key, name).public_bytes(Encoding.PEM), 0o644)
        _write_new(path.with_suffix(".pub"), to_pem(key.public_key()), 0o644)
    except OSError as error:
        raise InputError.of(f"cannot write a key to {folder}: {error.strerror}", "choose another folder") from error
    return path


def load_signer(key: Path, passphrase: bytes | None) -> Signer:
    """Read a private key and the certificate beside it (`signer.key`, `signer.crt`).

    Raises:
        InputError: A file is missing or unreadable, others than its owner can read the key, the passphrase is wrong
            or missing, the key is not P-256, or the certificate is of another key or has expired.
    """
    private = _private_key(key, passphrase)
    beside = key.with_suffix(".crt")
    certificate = _certificate(beside)
    try:
        signer = Signer(private, certificate)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InputError.of(f"{beside}: not the certificate of {key}", "put the right one beside the key") from error
    if certificate.not_valid_after_utc < datetime.now(UTC):
        raise InputError.of(f"{beside}: expired on {certificate.not_valid_after_utc:%Y-%m-%d}", _HOW_TO_MAKE)
    return signer


def load_public_key(path: Path) -> ec.EllipticCurvePublicKey:
    """Read a public key: `signer.pub`, or a certificate.

    Raises:
        InputError: Missing, unreadable, not a P-256 public key, or a private key given by mistake.
    """
    return parse_public_key(_read(path), str(path))


def parse_public_key(pem: bytes, source: str) -> ec.EllipticCurvePublicKey:
    """The P-256 key of a public-key or certificate PEM; `source` is named in the error.

    Raises:
        InputError: It is something else.
    """
    if b"PRIVATE KEY-----" in pem:
        raise InputError.of(f"{source}: this is a private key", "name the public one (signer.pub)")
    try:
        certified = b"-----BEGIN CERTIFICATE-----" in pem
        key = x509.load_pem_x509_certificate(pem).public_key() if certified else load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InputError.of(f"{source}: expected a public key or certificate in PEM, found something else") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InputError.of(f"{source}: expected a P-256 key, found {_kind(key)}", _HOW_TO_MAKE)
    return key


def _private_key(path: Path, passphrase: bytes | None) -> ec.EllipticCurvePrivateKey:
    _refuse_open_to_others(path)
    try:
        key = load_pem_private_key(_read(path), passphrase or None)
    except TypeError as error:
        found = "it has a passphrase and none was given" if not passphrase else "it has no passphrase"
        raise InputError.of(f"{path}: cannot open the key: {found}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        message = f"{path}: not a private key in PEM" + (", or a wrong passphrase" if passphrase else "")
        raise InputError.of(message, _HOW_TO_MAKE) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InputError.of(f"{path}: expected a P-256 key, found {_kind(key)}", _HOW_TO_MAKE)
    return key


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(_read(path))
    except ValueError as error:
        raise InputError.of(f"{path}: not a certificate in PEM", "it was written beside the key") from error


def _self_signed(key: ec.EllipticCurvePrivateKey, name: str) -> x509.Certificate:
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC).replace(microsecond=0)
    builder = (
        x509.CertificateBuilder(who, who, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=YEARS_VALID * 365 + 2))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_for_signatures_alone(), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return builder.sign(key, hashes.SHA256())


def _for_signatures_alone() -> x509.KeyUsage:
    """Digital signature and non-repudiation, what PAdES asks for, and nothing else."""
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=True,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _check_name(name: str) -> None:
    if not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
        expected = f"1 to {LONGEST_NAME} printable characters"
        raise InputError.of(f"the signer's name: expected {expected}, found {name!r}", "give another with --name")


def _encryption(passphrase: bytes | None) -> KeySerializationEncryption:
    if passphrase is None:
        return NoEncryption()
    if not 0 < len(passphrase) <= LONGEST_PASSPHRASE:
        expected = f"1 to {LONGEST_PASSPHRASE} bytes"
        raise InputError.of(f"the passphrase: expected {expected}, found {len(passphrase)}", "give another, or none")
    return BestAvailableEncryption(passphrase)


def _refuse_existing(folder: Path) -> None:
    for path in (folder / f"signer{suffix}" for suffix in (".key", ".crt", ".pub")):
        if path.exists() or path.is_symlink():
            raise InputError.of(f"{path} exists and is never overwritten", "choose another folder")


def _write_new(path: Path, content: bytes, mode: int) -> None:
    """Write a file that must not exist yet; its mode holds from the first byte on."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _refuse_open_to_others(path: Path) -> None:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise InputError.of(f"{path}: cannot read the key: {error.strerror}", _HOW_TO_MAKE) from error
    if os.name == "posix" and mode & 0o077:
        raise InputError.of(f"{path}: open to others than its owner (mode {mode:04o})", f"run: chmod 600 {path}")


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise InputError.of(f"{path}: no such file")
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise InputError.of(f"{path}: cannot read it: {error.strerror}") from error
    if len(content) > LARGEST_FILE:
        raise InputError.of(f"{path}: larger than any key or certificate ({LARGEST_FILE} bytes)")
    return content


def _spki(key: object) -> bytes:
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError(f"expected a P-256 key, found {_kind(key)}")  # noqa: TRY004  a wrong file, not a wrong call
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _kind(key: object) -> str:
    curve = getattr(key, "curve", None)
    return f"the curve {curve.name}" if isinstance(curve, ec.EllipticCurve) else type(key).__name__.strip("_")
