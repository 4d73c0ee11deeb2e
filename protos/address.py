"""Network addresses as users write them: `host:port`, `[::1]:port`."""

import ipaddress
import re
from dataclasses import dataclass

from fedtune.errors import TransportError

_HOST_PORT = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<host>[^\[\]:/\s]+)):(?P<port>[0-9]{1,5})\Z")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a coordinator listens; port 0 asks for any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        """`host:port`, with brackets around an IPv6 host."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine's own loopback, by its written form and not by what a name resolves to."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(text: str) -> Address:
    """The address that `text` writes.

    Raises:
        TransportError: unless it is `host:port` or `[ipv6]:port` with a port up to 65535.
    """
    match = _HOST_PORT.match(text.strip())
    if not match or int(match["port"]) > 65535:
        raise TransportError(f"{text[:200]!r} is no address: write host:port, such as coordinator.example.org:9443")
    return Address(match["v6"] or match["host"], int(match["port"]))
