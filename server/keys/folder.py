"""The folder that `fedtune keys` keeps: the authority, the coordinator's certificate, and a bundle for each client.

```
ca.crt  ca.key  enrolled.json
server/         server.crt  server.key
clients/NAME/   ca.crt  client.crt  client.key
```
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from fedtune.errors import EnrolmentError
from protos.names import check_name
from server.keys.authority import Authority, Issued, fingerprint
from server.keys.enrolment import Enrolled, Enrolment
from server.keys.files import PRIVATE, make_folder, read_file, write_file

LOCAL_HOSTS = ["localhost", "127.0.0.1", "::1"]
CA_DAYS, LEAF_DAYS = 3650, 365


class KeyFolder:
    """Makes, adds, renews and revokes keys; two commands at once wait for each other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.enrolment = Enrolment(folder / "enrolled.json")

    def init(self, hosts: list[str], clients: list[str], *, days: int = LEAF_DAYS) -> None:
        """A new authority, the coordinator's certificate for `hosts` and loopback, and one bundle a client.

        Raises:
            EnrolmentError: where the folder has an authority already, which is never overwritten.
        """
        for name in clients:
            check_name(name)
        make_folder(self.folder)
        with self._locked():
            if (self.folder / "ca.key").exists() or (self.folder / "ca.crt").exists():
                raise EnrolmentError(f"{self.folder} has keys already; use `fedtune keys add`, or another folder")
            authority = Authority.create(CA_DAYS)
            server = authority.issue_server([*hosts, *LOCAL_HOSTS], days)
            bundles = {name: authority.issue_client(name, days) for name in clients}
            self._write_server(server)
            self._enrol({}, bundles, authority.issued.certificate_pem)
            write_file(self.folder / "ca.crt", authority.issued.certificate_pem)
            write_file(self.folder / "ca.key", authority.issued.key_pem, PRIVATE)

    def add(self, name: str, *, days: int = LEAF_DAYS) -> Path:
        """A bundle for one more client; a revoked name may be added again, with a new key.

        Raises:
            EnrolmentError: where the name is enrolled and not revoked.
        """
        check_name(name)
        with self._locked():
            entries = self.enrolment.entries()
            if name in entries and not entries[name].revoked:
                raise EnrolmentError(f"{name} is enrolled already; use `fedtune keys renew`, or another name")
            return self._issue_client(name, days)

    def renew(self, name: str, *, days: int = LEAF_DAYS) -> Path:
        """A new key and certificate for an enrolled client; the old one is refused from now on.

        Raises:
            EnrolmentError: where the name is not enrolled or was revoked.
        """
        with self._locked():
            if self._entry(name).revoked:
                raise EnrolmentError(f"the key of {name} was revoked; `fedtune keys add {name}` enrols it anew")
            return self._issue_client(name, days)

    def renew_server(self, hosts: list[str], *, days: int = LEAF_DAYS) -> None:
        """A new certificate for the coordinator; the coordinator reads it when it starts."""
        with self._locked():
            self._write_server(self._authority().issue_server([*hosts, *LOCAL_HOSTS], days))

    def revoke(self, name: str) -> None:
        """Refuse a client from now on; a coordinator that runs drops its connection within a heartbeat.

        Raises:
            EnrolmentError: where the name is not enrolled.
        """
        with self._locked():
            entry = self._entry(name)
            self.enrolment.save({**self.enrolment.entries(), name: replace(entry, revoked=True)})

    def bundle(self, name: str) -> Path:
        """The folder to hand to a client."""
        return self.folder / "clients" / name

    def _entry(self, name: str) -> Enrolled:
        entries = self.enrolment.entries()
        if name not in entries:
            raise EnrolmentError(
                f"no client named {name!r} is enrolled; enrolled: {', '.join(sorted(entries)) or 'none'}"
            )
        return entries[name]

    def _authority(self) -> Authority:
        certificate = read_file(self.folder / "ca.crt", "the certificate of the authority")
        return Authority.load(certificate, read_file(self.folder / "ca.key", "the key of the authority"))

    def _issue_client(self, name: str, days: int) -> Path:
        authority = self._authority()
        issued = authority.issue_client(name, days)
        self._enrol(self.enrolment.entries(), {name: issued}, authority.issued.certificate_pem)
        return self.bundle(name)

    def _enrol(self, entries: dict[str, Enrolled], bundles: dict[str, Issued], ca_pem: bytes) -> None:
        for name, issued in bundles.items():
            folder = self.bundle(name)
            make_folder(folder.parent)
            _write_pair(folder, "client", issued)
            write_file(folder / "ca.crt", ca_pem)
        fresh = {name: _enrolled(issued) for name, issued in bundles.items()}
        self.enrolment.save({**entries, **fresh})

    def _write_server(self, issued: Issued) -> None:
        _write_pair(self.folder / "server", "server", issued)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if not self.folder.is_dir():
            raise EnrolmentError(f"there is no folder {self.folder}; `fedtune keys init {self.folder}` makes it")
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _write_pair(folder: Path, stem: str, issued: Issued) -> None:
    make_folder(folder)
    write_file(folder / f"{stem}.key", issued.key_pem, PRIVATE)
    write_file(folder / f"{stem}.crt", issued.certificate_pem)


def _enrolled(issued: Issued) -> Enrolled:
    return Enrolled(fingerprint(issued.certificate), issued.certificate.not_valid_after_utc.isoformat())
