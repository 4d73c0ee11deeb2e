"""The list of clients that may connect: names, certificate fingerprints, and who was revoked."""

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID

from fedtune.errors import EnrolmentError, TransportError
from protos.names import check_name
from server.keys.authority import fingerprint
from server.keys.files import read_file, write_file

VERSION = 1


@dataclass(frozen=True, slots=True)
class Enrolled:
    """One client's entry."""

    fingerprint: str
    """SHA-256 of its certificate, 64 hex digits."""
    expires: str
    """When the certificate ends, ISO 8601 in UTC."""
    revoked: bool = False


class NotEnrolled(EnrolmentError):
    """A certificate that is on no list; `why` is the short name of the reason."""

    def __init__(self, why: str, message: str) -> None:
        super().__init__(message)
        self.why = why


class Enrolment:
    """`enrolled.json`, read again whenever it changes.

    Guarantees: a certificate passes only while its own fingerprint is listed under its own name and is not revoked;
    that the authority signed it is not enough. Where the file is missing or damaged, nobody passes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: tuple[int, int, int] | None = None
        self._entries: dict[str, Enrolled] = {}

    def entries(self) -> dict[str, Enrolled]:
        """All entries by name, as the file has them now.

        Raises:
            EnrolmentError: where the file is missing or damaged.
        """
        try:
            stat = os.stat(self.path)
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        except OSError:
            stamp = None
        if stamp is None or stamp != self._stamp:
            self._entries, self._stamp = _parse(read_file(self.path, "the list of enrolled clients"), self.path), stamp
        return self._entries

    def save(self, entries: dict[str, Enrolled]) -> None:
        """Put these entries in the file's place, in one step."""
        document = {"version": VERSION, "clients": {name: asdict(entries[name]) for name in sorted(entries)}}
        write_file(self.path, json.dumps(document, indent=2).encode() + b"\n")

    def admit(self, certificate: x509.Certificate) -> str:
        """The name of the client that this verified certificate belongs to.

        Raises:
            NotEnrolled: where it is not listed, revoked, replaced by a newer one or has expired.
            EnrolmentError: where the list cannot be read.
        """
        name = common_name(certificate)
        entry = self.entries().get(name)
        if entry is None:
            raise NotEnrolled(
                "not-enrolled", f"no client named {name!r} is enrolled; ask for a key: `fedtune keys add`"
            )
        if entry.revoked:
            raise NotEnrolled("revoked", f"the key of {name} was revoked; ask the coordinator's operator for a new one")
        if entry.fingerprint != fingerprint(certificate):
            raise NotEnrolled(
                "not-enrolled", f"this is not the key that {name} is enrolled with; use the newest bundle"
            )
        if certificate.not_valid_after_utc <= datetime.now(UTC):
            raise NotEnrolled(
                "expired", f"the certificate of {name} has expired; ask for a new one: `fedtune keys renew`"
            )
        return name


def common_name(certificate: x509.Certificate) -> str:
    """The one common name of a certificate.

    Raises:
        NotEnrolled: where it has none, several, or one that cannot be a client's name.
    """
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(names) != 1:
        raise NotEnrolled("not-enrolled", "the certificate does not name one client; use a bundle of `fedtune keys`")
    try:
        return check_name(str(names[0].value))
    except TransportError as error:
        raise NotEnrolled("not-enrolled", str(error)) from error


def _parse(raw: bytes, path: Path) -> dict[str, Enrolled]:
    try:
        document = json.loads(raw)
        if document["version"] != VERSION:
            raise EnrolmentError(
                f"{path} has version {document['version']!r}, this fedtune reads {VERSION}; update fedtune"
            )
        return {check_name(name): _entry(**entry) for name, entry in document["clients"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, TransportError) as error:
        if isinstance(error, EnrolmentError):
            raise
        raise EnrolmentError(f"{path} is damaged, so nobody is let in; restore it from a backup ({error})") from error


def _entry(*, fingerprint: str, expires: str, revoked: bool) -> Enrolled:
    if not isinstance(revoked, bool) or len(bytes.fromhex(fingerprint)) != 32:
        raise ValueError("an entry needs a SHA-256 fingerprint and a true or false `revoked`")
    datetime.fromisoformat(expires)
    return Enrolled(fingerprint, expires, revoked)
