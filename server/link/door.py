"""Who comes in: the name is the verified certificate's, or on an unencrypted loopback link the client's own word."""

from collections.abc import Callable
from dataclasses import dataclass

from cryptography import x509

from fedtune import __version__
from fedtune.errors import EnrolmentError, TransportError
from protos.fedtune.v1.link_pb2 import Hello, Refusal
from protos.limits import PROTOCOL
from protos.names import check_name
from server.keys.enrolment import Enrolment, NotEnrolled


class Refused(TransportError):
    """This client does not come in; `refusal` is what it is told."""

    def __init__(self, reason: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.refusal = Refusal(reason=reason, message=message, retryable=retryable)


@dataclass(frozen=True, slots=True)
class Guest:
    """A client that was let in."""

    name: str
    check: Callable[[], None]
    """Raises `Refused` when the client may not stay: revoked, or its certificate has expired."""


class Door:
    """Asks everyone for the protocol version and, under TLS, for an enrolled certificate."""

    def __init__(self, enrolment: Enrolment | None) -> None:
        self._enrolment = enrolment

    def admit(self, hello: Hello, certificate_pem: bytes | None) -> Guest:
        """Let a client in.

        Raises:
            Refused: where it speaks another protocol, or is not enrolled.
        """
        if hello.protocol != PROTOCOL:
            text = f"the coordinator (fedtune {__version__}) speaks version {PROTOCOL} of the link, the client version "
            raise Refused("protocol", f"{text}{hello.protocol}; install the same fedtune on both sides")
        if not 0 < len(hello.session) <= 64:
            raise Refused("malformed", "the Hello names no session")
        if self._enrolment is None:
            return self._by_word(hello.name)
        return self._by_certificate(self._enrolment, certificate_pem)

    @staticmethod
    def _by_word(name: str) -> Guest:
        try:
            return Guest(check_name(name), check=lambda: None)
        except TransportError as error:
            raise Refused("malformed", str(error)) from error

    @staticmethod
    def _by_certificate(enrolment: Enrolment, certificate_pem: bytes | None) -> Guest:
        if certificate_pem is None:
            raise Refused("not-enrolled", "no certificate was shown; use a bundle of `fedtune keys`")
        certificate = x509.load_pem_x509_certificate(certificate_pem)

        def check() -> str:
            try:
                return enrolment.admit(certificate)
            except NotEnrolled as error:
                raise Refused(error.why, str(error)) from error
            except EnrolmentError as error:
                # The list is being repaired, not the client's fault: it may come again.
                raise Refused(
                    "not-enrolled", "the coordinator cannot read its list of clients", retryable=True
                ) from error

        def check_again() -> None:
            check()

        return Guest(check(), check_again)
