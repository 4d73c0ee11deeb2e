"""The names of simulated clients: `client-0`, `client-1`, …"""

_PREFIX = "client-"


def client_name(position: int) -> str:
    """The name of the simulated client that holds the part at `position`; a real client's key may carry it too."""
    return f"{_PREFIX}{position}"


def position_of(client: str) -> int:
    """The position of the client of a name from `client_name`."""
    return int(client.removeprefix(_PREFIX))
