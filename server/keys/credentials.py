"""The coordinator's side of TLS: its certificate, and that every client must show one of the authority's."""

from pathlib import Path

import grpc

from protos.certificates import check_pair
from server.keys.enrolment import Enrolment
from server.keys.files import read_file


class ServerKeys:
    """What a coordinator needs of a key folder: never the authority's key, which can stay on another machine.

    Raises:
        EnrolmentError: where a file is missing, damaged, expired or does not belong to the others.
    """

    def __init__(self, folder: Path) -> None:
        self.enrolment = Enrolment(folder / "enrolled.json")
        self.enrolment.entries()
        self._ca = read_file(folder / "ca.crt", "the certificate of the authority")
        self._certificate = read_file(folder / "server" / "server.crt", "the coordinator's certificate")
        self._key = read_file(folder / "server" / "server.key", "the coordinator's key")
        check_pair(self._certificate, self._key, self._ca, folder / "server" / "server.crt")

    def grpc(self) -> grpc.ServerCredentials:
        """Credentials that demand and verify a client certificate."""
        pair = (self._key, self._certificate)
        return grpc.ssl_server_credentials([pair], root_certificates=self._ca, require_client_auth=True)
