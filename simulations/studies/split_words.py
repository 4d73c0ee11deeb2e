"""The study of split learning in words: its tables, and how the published claims fare."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.table import Table

from fedtune.cli.split_table import count_text
from fedtune.runs.words import bytes_text, percent_text
from simulations.studies.compare import differences
from simulations.studies.outcome import Outcome
from simulations.studies.plan import Plan
from simulations.studies.show import NOT_KNOWN, spread_text
from simulations.studies.split import FULL, SFPROMPT
from simulations.studies.split_claims import claims, published_claims
from simulations.studies.split_rows import SplitRow

HEADINGS = (
    "contender",
    "rate",
    "test accuracy",
    "FLOPs",
    "share",
    "up",
    "down",
    "share",
    "to the body",
    "memory",
    "measured",
)
HOW_TO_READ = (
    "Accuracy is the mean over seeds ± the sample standard deviation, after the last round, on the same test rows for "
    "all. The rest is of one client in one round. FLOPs are the client's, counted by formula; their share, and that of "
    f"the bytes, is of those of `{FULL}`. Bytes are measured: the update on its messages, and what crosses the cuts as "
    "it is encoded, without headers; *to the body* is that second part, both ways. Memory is by formula, in fp32, and "
    "measured as the peak of a process of one client beyond the libraries: the global state and the update are in that."
)
WHERE = (
    "`splitfed-linear` trains the task's head and the norm before it, `splitfed-tail` the last layer with them; every "
    "row goes through the body, and no gradient comes back from there. `splitfed-full` trains head, body and tail, and "
    "`split-lora` adapters of rank 8 on all three: the coordinator steps a copy of the body for each client and "
    "averages the copies, and what that costs it is in no column. Embeddings stay as they are in every split."
)


@dataclass(frozen=True, slots=True)
class World:
    """What came of one federation."""

    name: str
    plan: Plan
    outcomes: Sequence[Outcome]
    rows: Sequence[SplitRow]


def split_table(world: World) -> Table:
    """For the terminal."""
    table = Table(title=world.name, title_justify="left")
    for heading in HEADINGS:
        is_name = heading == HEADINGS[0]
        table.add_column(heading, justify="left" if is_name else "right", no_wrap=is_name)
    for row in world.rows:
        table.add_row(*_cells(row))
    return table


def split_summary(worlds: Sequence[World]) -> str:
    """The whole study as Markdown, each paragraph and table apart."""
    parts = [f"# The {worlds[0].plan.form} study of split learning", _what_ran(worlds), HOW_TO_READ]
    for world in worlds:
        parts += [f"## {world.name}", _markdown(world.rows), *claims(world.rows), *_parts(world), _edges(world)]
    parts += ["## The published setting", published_claims(), "## What is trained where", WHERE]
    return "\n\n".join(parts) + "\n"


def _what_ran(worlds: Sequence[World]) -> str:
    reported = [o for world in worlds for o in world.outcomes if o.cell.stage == "report"]
    plan = worlds[0].plan
    borrowed = [f"`{name}`" for name, contender in plan.contenders.items() if contender.rate_of]
    taken = f"; {', '.join(borrowed)} take that of `{SFPROMPT}`" if borrowed else ""
    return (
        f"{len(reported)} simulations of {len(plan.contenders)} contenders in {len(worlds)} federations, seeds "
        f"{', '.join(map(str, plan.seeds))}; {plan.test_rows} test rows in each, the same for all. Learning rates are "
        f"those that were best on {plan.tuning_rows} public rows, which are no test rows, with seed "
        f"{plan.tuning_seed}, which is not reported{taken}. {sum(o.left_out for o in reported)} updates were left out."
    )


def _parts(world: World) -> Iterable[str]:
    """What SFPrompt's parts are worth, and what it is worth itself."""
    found = differences(world.outcomes, list(world.plan.splits), SFPROMPT, list(world.plan.contenders))
    yield (
        f"**Accuracy against `{SFPROMPT}`**, paired by seed, in points, with its 95 % interval by Student's t; an "
        "interval that holds zero shows neither gain nor loss."
    )
    yield "\n".join(f"- {difference.in_words()}" for difference in found) or "- nothing to compare"


def _edges(world: World) -> str:
    chosen = {row.contender: row.lr for row in world.rows}
    edges = [f"{n} ({lr:g})" for n, lr in chosen.items() if lr in (min(grid := world.plan.grid(n)), max(grid))]
    if not edges:
        return "Every chosen learning rate lies inside its grid."
    return f"Learning rates at the edge of their grid, so a better one may lie beyond: {', '.join(edges)}."


def _markdown(rows: Sequence[SplitRow]) -> str:
    rule = ("---", *["---:"] * (len(HEADINGS) - 1))
    return "\n".join(f"| {' | '.join(line)} |" for line in (HEADINGS, rule, *map(_cells, rows)))


def _cells(row: SplitRow) -> tuple[str, ...]:
    """A row in words, in the order of `HEADINGS`."""
    failed = f" ({row.failed} failed)" if row.failed else ""
    body = None if row.body_up is None or row.body_down is None else row.body_up + row.body_down
    return (
        row.contender,
        f"{row.lr:g}",
        spread_text(row.accuracy_mean, row.accuracy_std) + failed,
        count_text(row.flops),
        percent_text(row.flops_share),
        _bytes(row.up),
        _bytes(row.down),
        NOT_KNOWN if row.bytes_share is None else percent_text(row.bytes_share),
        _bytes(body),
        bytes_text(row.memory),
        _bytes(row.memory_measured),
    )


def _bytes(count: float | None) -> str:
    return NOT_KNOWN if count is None else bytes_text(count)
