"""A study of traffic in words: its table, for the terminal and for Markdown, and what is met of its goals."""

from collections.abc import Iterable, Sequence

from rich.table import Table

from fedtune.runs.words import bytes_text, percent_text
from simulations.studies.outcome import Outcome
from simulations.studies.plan import Plan
from simulations.studies.results import rows_of
from simulations.studies.show import NOT_KNOWN, spread_text
from simulations.studies.traffic import Traffic, target
from simulations.studies.traffic_picture import GOAL

HEADINGS = ("contender", "rate", "test accuracy", "against baseline", "up", "fewer", "down", "rounds", "sent by then")
FEWER_LORA = (8, 50)
"""The range in which a sparse LoRA is to lose nothing."""
HOW_TO_READ = (
    "Accuracy is the mean over seeds ± the sample standard deviation, after the last round, on the same test rows for "
    "all. *Against baseline* is the difference to {baseline} in points, paired by seed, with its 95 % interval by "
    "Student's t: one that holds zero shows neither gain nor loss. Bytes are those of one client in one round, "
    "measured, the head and every header included. *Rounds* are those after which the mean over seeds was first at the "
    "target, {target}: a point below what {baseline} ends with; it was scored after the rounds {scored}. A star is on "
    "the Pareto front."
)


def traffic_table(plan: Plan, rows: Sequence[Traffic]) -> Table:
    """For the terminal."""
    table = Table(title=", ".join(plan.splits), title_justify="left")
    for heading in HEADINGS:
        is_name = heading == HEADINGS[0]
        table.add_column(heading, justify="left" if is_name else "right", no_wrap=is_name)
    for row in rows:
        table.add_row(*_cells(row))
    return table


def traffic_summary(plan: Plan, rows: Sequence[Traffic], outcomes: Iterable[Outcome], baseline: str) -> str:
    """The whole study as Markdown, each paragraph and table apart."""
    known = list(outcomes)
    rule = ("---", *["---:"] * (len(HEADINGS) - 1))
    table = "\n".join(f"| {' | '.join(line)} |" for line in (HEADINGS, rule, *map(_cells, rows)))
    goals = [fed_sb_goal(rows), lora_goal(rows)]
    parts = [f"# The {plan.form} study of compression", _what_ran(plan, known, baseline), table, "## Goals", *goals]
    return "\n\n".join(parts) + "\n"


def fed_sb_goal(rows: Sequence[Traffic]) -> str:
    """Is there a Fed-SB of 1,000 times fewer bytes that loses no more than a point?"""
    asked = f"**Fed-SB, {GOAL:,} times fewer bytes up, at most a point lost**"
    small = [row for row in rows if row.method == "fed-sb" and row.times_fewer and row.times_fewer >= GOAL]
    if not small:
        return f"{asked}: missed, for no contender sends so little."
    best = max(small, key=_gap)
    return f"{asked}: {'met' if best.keeps_within else 'missed'} in the mean. The best of {len(small)}: {_told(best)}."


def lora_goal(rows: Sequence[Traffic]) -> str:
    """Does a sparse LoRA of 8 to 50 times fewer bytes lose nothing?"""
    low, high = FEWER_LORA
    asked = f"**FedIT, {low} to {high} times fewer bytes up, nothing lost**"
    sparse = [row for row in rows if row.method == "fedit" and row.times_fewer and low <= row.times_fewer <= high]
    if not sparse:
        return f"{asked}: missed, for no contender sends so little."
    best = max(sparse, key=_gap)
    return f"{asked}: {'met' if _gap(best) >= 0 else 'missed'} in the mean. {'; '.join(map(_told, sparse))}."


def _gap(row: Traffic) -> float:
    return -1.0 if row.above_baseline is None else row.above_baseline


def _told(row: Traffic) -> str:
    return f"{row.contender}, {row.times_fewer:,.0f} times fewer, {_gap_text(row)} points"


def _gap_text(row: Traffic) -> str:
    if row.above_baseline is None:
        return NOT_KNOWN
    spread = "" if row.half_width is None else f" ± {100 * row.half_width:.1f}"
    return f"{100 * row.above_baseline:+.1f}{spread}"


def _cells(row: Traffic) -> tuple[str, ...]:
    """A row in words, in the order of `HEADINGS`."""
    failed = f" ({row.failed} failed)" if row.failed else ""
    return (
        row.contender + (" *" if row.on_front else ""),
        f"{row.lr:g}",
        spread_text(row.accuracy_mean, row.accuracy_std) + failed,
        _gap_text(row),
        NOT_KNOWN if row.bytes_up is None else bytes_text(row.bytes_up),
        NOT_KNOWN if row.times_fewer is None else f"{row.times_fewer:,.0f} x",
        NOT_KNOWN if row.bytes_down is None else bytes_text(row.bytes_down),
        "never" if row.rounds_to_target is None else str(row.rounds_to_target),
        NOT_KNOWN if row.bytes_to_target is None else bytes_text(row.bytes_to_target),
    )


def _what_ran(plan: Plan, outcomes: Sequence[Outcome], baseline: str) -> str:
    reported = [outcome for outcome in outcomes if outcome.cell.stage == "report"]
    seeds = ", ".join(map(str, sorted({outcome.cell.seed for outcome in reported})))
    scored = ", ".join(map(str, sorted({round_ for outcome in reported for round_, _ in outcome.curve})))
    goals = [percent_text(target(row)) for row in rows_of(plan, outcomes) if row.method == baseline and row.seeds]
    tuned = sum(bool(contender.rates) for contender in plan.contenders.values())
    how = HOW_TO_READ.format(baseline=baseline, target=", ".join(goals) or NOT_KNOWN, scored=scored or NOT_KNOWN)
    return (
        f"{len(reported)} simulations of {len(plan.contenders)} contenders on {', '.join(plan.splits)}, seeds {seeds}, "
        f"{plan.test_rows} test rows. The learning rates of {tuned} contenders with no codec are those that were best "
        f"on the clients' held-out rows with seed {plan.tuning_seed}, which is not reported; the rest of their method "
        f"train at the same. {sum(outcome.left_out for outcome in reported)} updates were left out. {how}"
    )
