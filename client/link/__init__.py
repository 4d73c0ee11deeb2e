"""The client's end of the link: one gRPC stream to the coordinator, opened again whenever it breaks."""

from client.link.credentials import ClientKeys
from client.link.session import LinkClient

__all__ = ["ClientKeys", "LinkClient"]
