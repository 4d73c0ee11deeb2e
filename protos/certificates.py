"""Checks of a certificate and its key before they are used, in words instead of a failed handshake."""

from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fedtune.errors import EnrolmentError


def check_pair(certificate_pem: bytes, key_pem: bytes, ca_pem: bytes, path: Path) -> x509.Certificate:
    """The certificate, if it is valid now, is the key's, and was signed by the authority.

    Raises:
        EnrolmentError: where one of these does not hold; `path` names the certificate.
    """
    try:
        certificate, ca = x509.load_pem_x509_certificate(certificate_pem), x509.load_pem_x509_certificate(ca_pem)
        key = load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise EnrolmentError(f"{path}, its key or ca.crt is damaged; renew it with `fedtune keys renew`") from error
    if key.public_key() != certificate.public_key():
        raise EnrolmentError(f"the key beside {path} is not its key; renew both with `fedtune keys renew`")
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise EnrolmentError(
            f"{path} was not signed by the authority in ca.crt; use one `keys init`'s files"
        ) from error
    _check_dates(certificate, path)
    return certificate


def _check_dates(certificate: x509.Certificate, path: Path) -> None:
    now = datetime.now(UTC)
    if certificate.not_valid_after_utc <= now:
        ended = certificate.not_valid_after_utc.date()
        raise EnrolmentError(f"{path} expired on {ended}; renew it with `fedtune keys renew`")
    if certificate.not_valid_before_utc > now:
        begins = certificate.not_valid_before_utc
        raise EnrolmentError(f"{path} is valid only from {begins:%Y-%m-%d %H:%M} UTC on; set this machine's clock")
