"""The client's side of TLS: the bundle that the coordinator's operator handed over, checked before it is used."""

import logging
import stat
from pathlib import Path

import grpc
from cryptography.x509.oid import NameOID

from fedtune.errors import EnrolmentError
from protos.certificates import check_pair
from protos.names import check_name

_log = logging.getLogger("fedtune.link")


class ClientKeys:
    """A bundle folder: `ca.crt`, `client.crt`, `client.key`.

    Raises:
        EnrolmentError: where a file is missing, unreadable or damaged, has expired or does not belong to the others.
    """

    def __init__(self, folder: Path) -> None:
        self._ca = _read(folder / "ca.crt")
        self._certificate = _read(folder / "client.crt")
        self._key = _read(folder / "client.key")
        certificate = check_pair(self._certificate, self._key, self._ca, folder / "client.crt")
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        if len(names) != 1:
            raise EnrolmentError(f"{folder / 'client.crt'} names no client; use a bundle of `fedtune keys add`")
        self.name = check_name(str(names[0].value))
        self.expires = certificate.not_valid_after_utc
        _warn_if_open(folder / "client.key")

    def grpc(self) -> grpc.ChannelCredentials:
        """Credentials that verify the coordinator and show who this client is."""
        return grpc.ssl_channel_credentials(self._ca, self._key, self._certificate)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise EnrolmentError(f"{path} is missing; --keys names the folder that `fedtune keys` made for you") from error
    except OSError as error:
        raise EnrolmentError(f"{path} cannot be read: {error.strerror or error}") from error


def _warn_if_open(key: Path) -> None:
    if key.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        _log.warning("others on this machine can read %s; close it with: chmod 600 %s", key, key)
