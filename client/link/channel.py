"""A connection to the coordinator: TLS with this client's key, or none on loopback."""

import grpc

from client.link.credentials import ClientKeys
from fedtune.errors import TransportError
from protos.address import Address
from protos.limits import FRAME_ROOM_BYTES, MAX_CHUNK_BYTES

OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", MAX_CHUNK_BYTES + FRAME_ROOM_BYTES),
    ("grpc.max_send_message_length", MAX_CHUNK_BYTES + FRAME_ROOM_BYTES),
]


def open_channel(address: Address, keys: ClientKeys | None) -> grpc.Channel:
    """A channel of its own: nothing is sent before something is asked."""
    # A proxy that the environment names is for other machines, and must not see what stays on this one.
    options = [*OPTIONS, ("grpc.enable_http_proxy", int(not address.is_loopback))]
    if keys is None:
        return grpc.insecure_channel(str(address), options=options)
    return grpc.secure_channel(str(address), keys.grpc(), options=options)


def check_unencrypted(address: Address) -> None:
    """Raises TransportError unless a link without keys goes to loopback."""
    if not address.is_loopback:
        raise TransportError(f"{address} is another machine: give --keys, an unencrypted link goes to loopback only")
