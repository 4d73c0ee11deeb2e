"""What a failed connection means, in words: whether to try again, and what to change."""

import grpc

from fedtune.errors import EnrolmentError, TransportError
from protos.address import Address
from protos.fedtune.v1.link_pb2 import Refusal

_ENROLMENT = {"not-enrolled", "revoked", "expired"}
_HOSTNAME = ("Hostname Verification Check failed", "is not in peer certificate", "SAN")
_TLS_TO_PLAIN = ("WRONG_VERSION_NUMBER", "wrong version number")


class Retry(TransportError):
    """The connection failed or broke, and may work the next time."""


def refused(address: Address, refusal: Refusal) -> TransportError:
    """The error of a coordinator's refusal."""
    text = f"the coordinator at {address} refused: {refusal.message[:400]}"
    if refusal.retryable:
        return Retry(text)
    return EnrolmentError(text) if refusal.reason in _ENROLMENT else TransportError(text)


def broken(address: Address, error: grpc.RpcError, *, encrypted: bool) -> TransportError:
    """The error of a stream that gRPC ended."""
    details = str(getattr(error, "details", lambda: "")() or "")
    if any(sign in details for sign in _HOSTNAME):
        return EnrolmentError(
            f"the coordinator's certificate is not for {address.host}; connect under a name of "
            "`fedtune keys init --host`, or add this one with `fedtune keys renew --server`"
        )
    if "certificate has expired" in details:
        return EnrolmentError(f"the certificate of the coordinator at {address} has expired; renew it there")
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return EnrolmentError(
            f"the coordinator at {address} is not the one of this key bundle: another authority signed it"
        )
    if any(sign in details for sign in _TLS_TO_PLAIN):
        return TransportError(
            f"{address} does not speak TLS; is this the coordinator's port, and was it started with keys?"
        )
    hint = "" if encrypted else " (does it want keys? then give --keys)"
    return Retry(f"no coordinator answers at {address}{hint}; is it running, and is the address right?")
