"""`fedtune keys`: a certificate authority, the coordinator's certificate and a key for each client."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from server.keys.enrolment import Enrolled
from server.keys.folder import LEAF_DAYS, KeyFolder

EPILOG = """\b
Examples:
  fedtune keys init keys --host fl.example.org --client hospital-a --client hospital-b
  fedtune keys add hospital-c
  fedtune keys revoke hospital-b
  fedtune keys list
"""
_WARN = timedelta(days=30)

_folder = click.option(
    "--keys", "folder", type=click.Path(path_type=Path), default=Path("keys"), show_default=True, help="The key folder."
)
_days = click.option(
    "--days",
    type=click.IntRange(1, 3650),
    default=LEAF_DAYS,
    show_default=True,
    help="How long certificates are valid.",
)
_hosts = click.option(
    "--host", "hosts", multiple=True, metavar="NAME", help="A name or address that clients reach the coordinator under."
)


@click.group(epilog=EPILOG)
def keys() -> None:
    """Make, list and revoke the keys of a coordinator and its clients.

    The coordinator takes the folder (`--keys keys`); it never needs ca.key, which can stay on another machine. Each
    client takes the bundle clients/NAME: send it over a channel that you trust, for it holds the client's private key.
    """


@keys.command(epilog="Example:  fedtune keys init keys --host fl.example.org --clients 4")
@click.argument("folder", type=click.Path(path_type=Path), default=Path("keys"))
@_hosts
@click.option("--client", "names", multiple=True, metavar="NAME", help="A client to make a key for; may be repeated.")
@click.option(
    "--clients", "count", type=click.IntRange(0, 10_000), default=0, help="So many more: client-1, client-2 …"
)
@_days
def init(folder: Path, hosts: tuple[str, ...], names: tuple[str, ...], count: int, days: int) -> None:
    """Make a certificate authority in FOLDER, the coordinator's certificate, and one key a client."""
    wanted = list(dict.fromkeys([*names, *(f"client-{number}" for number in range(1, count + 1))]))
    made = KeyFolder(folder)
    made.init(list(hosts), wanted, days=days)
    click.echo(f"made {folder}: the coordinator's keys (start it with --keys {folder})")
    for name in wanted:
        click.echo(f"  {name}: hand over {made.bundle(name)}")


@keys.command(epilog="Example:  fedtune keys add hospital-c")
@click.argument("name")
@_folder
@_days
def add(name: str, folder: Path, days: int) -> None:
    """Make a key for one more client; a coordinator that runs lets it in at once."""
    click.echo(f"{name}: hand over {KeyFolder(folder).add(name, days=days)}")


@keys.command(epilog="Example:  fedtune keys revoke hospital-b")
@click.argument("name")
@_folder
def revoke(name: str, folder: Path) -> None:
    """Refuse a client from now on; a coordinator that runs drops its connection within a heartbeat."""
    KeyFolder(folder).revoke(name)
    click.echo(f"{name}: revoked")


@keys.command(epilog="Example:  fedtune keys renew hospital-a      fedtune keys renew --server --host fl.example.org")
@click.argument("name", required=False)
@click.option("--server", is_flag=True, help="Renew the coordinator's certificate; name all --host again.")
@_hosts
@_folder
@_days
def renew(name: str | None, server: bool, hosts: tuple[str, ...], folder: Path, days: int) -> None:
    """Make a new key and certificate in an old one's place, for a client or the coordinator."""
    if (name is None) == (not server):
        raise click.UsageError("name one client, or say --server")
    if name is None:
        KeyFolder(folder).renew_server(list(hosts), days=days)
        click.echo("the coordinator's certificate is renewed; start the coordinator again to use it")
        return
    click.echo(f"{name}: hand over {KeyFolder(folder).renew(name, days=days)}; the old key is refused from now on")


@keys.command("list", epilog="Example:  fedtune keys list --keys keys")
@_folder
def list_(folder: Path) -> None:
    """List the enrolled clients with their fingerprints and when their certificates end."""
    entries = KeyFolder(folder).enrolment.entries()
    width = max(map(len, entries), default=0)
    for name in sorted(entries):
        click.echo(f"{name:<{width}}  {_state(entries[name]):<22}  sha256:{entries[name].fingerprint[:32]}")
    if not entries:
        click.echo("no client is enrolled; `fedtune keys add NAME` makes the first key")


def _state(entry: Enrolled) -> str:
    expires = datetime.fromisoformat(entry.expires)
    now = datetime.now(UTC)
    if entry.revoked:
        return "revoked"
    if expires <= now:
        return f"EXPIRED {expires:%Y-%m-%d}"
    return f"{'renew, ' * (expires - now < _WARN)}until {expires:%Y-%m-%d}"
