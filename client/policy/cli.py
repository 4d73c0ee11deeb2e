"""`fedtune policy`: write and check a data set's policy, and show what was spent."""

from pathlib import Path

import click

EPILOG = """\b
Examples:
  fedtune policy new policy.toml --dataset ward-3 --epsilon 3 --delta 1e-5
  fedtune policy check policy.toml --recipe my.toml
  fedtune policy show policy.toml --data rows.jsonl
"""

_books = click.option(
    "--budget",
    "books",
    type=click.Path(path_type=Path),
    help="Where books are kept; default ~/.local/state/fedtune/budget.",
)
_data = click.option(
    "--data", type=click.Path(path_type=Path), help="The rows: counts what was spent without a policy."
)


@click.group(epilog=EPILOG)
def policy() -> None:
    """Limit what coordinators may ask of your rows, and see what was spent of their privacy.

    The limits hold on this machine, whatever a coordinator wants: `fedtune client --policy policy.toml`.
    """


@policy.command(epilog="Example:  fedtune policy new policy.toml --dataset ward-3 --epsilon 3 --delta 1e-5")
@click.argument("file", default="policy.toml", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--dataset", required=True, help="The data set's own name; its book is kept under it.")
@click.option("--epsilon", type=float, required=True, help="The ε that all runs together may spend, for ever.")
@click.option("--delta", type=float, required=True, help="The δ to count at; below one over the number of rows.")
@click.option("--force", is_flag=True, help="Overwrite FILE.")
def new(file: Path, dataset: str, epsilon: float, delta: float, force: bool) -> None:
    """Write a commented policy into FILE (policy.toml)."""
    from pydantic import ValidationError

    from client.policy.load import parse_policy
    from client.policy.template import template
    from fedtune.errors import PrivacyError

    try:
        text = template(dataset, epsilon, delta)
    except ValidationError as error:
        said = "; ".join(f"--{detail['loc'][-1]}: {detail['msg']}" for detail in error.errors())
        raise click.UsageError(said) from error
    parse_policy(text, file.name)
    try:
        with file.open("w" if force else "x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError as error:
        raise PrivacyError(f"{file} is there already; name another file, or overwrite it by --force") from error
    except FileNotFoundError as error:
        raise PrivacyError(f"there is no folder {file.parent}; make it first") from error
    click.echo(f"wrote {file}\nnext: fedtune policy check {file}")


@policy.command(epilog="Example:  fedtune policy check policy.toml --recipe my.toml")
@click.argument("file", default="policy.toml", type=click.Path(path_type=Path))
@click.option("--recipe", help="A recipe, or the name of a ready one: would it be taken on, and what would it cost?")
@_data
@_books
def check(file: Path, recipe: str | None, data: Path | None, books: Path | None) -> None:
    """Check the policy in FILE (policy.toml), and what it would make of a recipe.

    Each mistake is said with its line. With --recipe the command ends with 1 where the whole run would not be allowed.
    """
    from client.policy.load import load_policy
    from client.policy.preview import preview
    from client.policy.set_up import books_of

    read = load_policy(file)
    for name, value in read.model_dump(exclude={"budget"}).items():
        if value not in ("", (), None):
            click.echo(f"{name}: {', '.join(map(str, value)) if isinstance(value, tuple) else value}")
    cap = f"ε {read.budget.epsilon:g} at δ = {read.budget.delta:g}" if read.budget else "no cap; add [budget] for one"
    click.echo(f"budget: {cap}")
    if recipe:
        click.echo(preview(read, recipe, [entry for book in books_of(data, read, books) for entry in book.entries()]))


@policy.command(epilog="Example:  fedtune policy show policy.toml")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@_data
@_books
@click.option("--delta", type=click.FloatRange(0, 0.1, min_open=True), help="The δ to count at; default the policy's.")
def show(file: Path | None, data: Path | None, books: Path | None, delta: float | None) -> None:
    """Show what was spent: of the data set of the policy in FILE, of the rows at --data, or of all on this machine."""
    from client.policy.book import Book
    from client.policy.load import load_policy
    from client.policy.set_up import book_folder, books_of
    from client.policy.shown import lines
    from client.policy.where import known

    read = load_policy(file) if file else None
    budget = read.budget if read else None
    at = delta or (budget.delta if budget else 1e-5)
    counted = budget if budget and at == budget.delta else None  # a cap at one δ says nothing of another
    if read or data:
        shown = books_of(data, read, books)
        entries = [entry for book in shown for entry in book.entries()]
        accounts = {read.dataset if read else shown[0].dataset: entries}
    else:
        folder = book_folder(books)
        accounts = {name: list(Book(folder, name).entries()) for name in known(folder)}
    for name, entries in accounts.items():
        click.echo("\n".join(lines(name, entries, at, counted)))
    if not accounts:
        click.echo("nothing was spent on this machine")
