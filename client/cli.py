"""`fedtune client`."""

from pathlib import Path

import click


@click.command(epilog="Example:  fedtune client --coordinator fl.example.org:7443 --keys hospital-a --data rows.jsonl")
@click.option("--coordinator", required=True, metavar="HOST:PORT", help="Where the coordinator listens.")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="This client's rows: a file or a folder.")
@click.option("--keys", type=click.Path(path_type=Path), help="The bundle that the coordinator's operator gave you.")
@click.option("--model", help="Use this local base model instead of the name in the recipe; it must be the same one.")
@click.option("--max-rank", type=click.IntRange(1, 4096), metavar="N", help="Train adapters up to this rank alone.")
@click.option(
    "--keep",
    type=click.Path(path_type=Path),
    help="Where tensors that never leave this client are kept between rounds; default ~/.local/state/fedtune/kept.",
)
@click.option(
    "--policy",
    type=click.Path(path_type=Path),
    help="What may be asked of these rows, and how much ε they give in all (fedtune policy new); default no limits.",
)
@click.option(
    "--budget",
    type=click.Path(path_type=Path),
    help="Where it is written down what was spent on data sets; default ~/.local/state/fedtune/budget.",
)
@click.option(
    "--cache-gb",
    type=float,
    metavar="GB",
    help="Memory for what frozen layers make of the rows; 0 keeps nothing. Default a quarter of what is free, shared "
    "by the cores, or a quarter of what is free on a GPU.",
)
@click.option("--insecure", is_flag=True, help="No encryption; loopback only. Needs --name.")
@click.option("--name", default="", help="Who this is on an --insecure link; with keys the certificate says it.")
@click.option("--retry-for", default=300.0, show_default=True, metavar="SECONDS", help="How long to try to reach it.")
def client(
    coordinator: str,
    data: Path,
    keys: Path | None,
    model: str | None,
    max_rank: int | None,
    keep: Path | None,
    policy: Path | None,
    budget: Path | None,
    cache_gb: float | None,
    insecure: bool,
    name: str,
    retry_for: float,
) -> None:
    """Take part in a coordinator's run with the rows at --data.

    The rows stay here; adapter updates leave. The process and its model stay alive between rounds, a broken connection
    is taken up again by itself, and the command ends when the run does. What --policy does not allow is declined, and
    the run goes on without this client. Whatever is spent of the rows' privacy is written down first, policy or not.
    """
    if keys is None and not insecure:
        raise click.UsageError(
            "name your bundle with --keys DIR, or try things out on loopback with --insecure --name NAME"
        )
    if insecure and not name:
        raise click.UsageError("an --insecure client needs --name")
    from client.stay import stay

    place: dict[str, str | int] = {
        "model": model or "",
        "max-rank": max_rank or 0,
        "keep": str(keep.resolve()) if keep else "",
        "policy": str(policy.resolve()) if policy else "",
        "budget": str(budget.resolve()) if budget else "",
        "cache-gb": "" if cache_gb is None else str(cache_gb),
    }
    click.echo(stay(coordinator, data, keys=None if insecure else keys, place=place, name=name, retry_for_s=retry_for))
