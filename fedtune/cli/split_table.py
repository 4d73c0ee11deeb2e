"""The plan of a split as tables for a terminal."""

from rich.console import Console
from rich.table import Table

from fedtune.runs.words import bytes_text
from fedtune.split.plan import CutCost, SplitPlan
from fedtune.split.recommend import Recommendation
from fedtune.split.release import Release, said

CAPTION = (
    "cut: layers of head+body+tail; FLOPs: the client's in an optimiser step; share: of its round in that of full "
    "fine-tuning; ↑ ↓: bytes up and down; full, LoRA: sample passes a round from which those send less (–: always)"
)
_UNITS = ("", "k", "M", "G", "T", "P")


def show(plan: SplitPlan, best: Recommendation, console: Console, *, release: Release | None = None) -> None:
    """Print every cut, the federated rounds beside them, the recommendation, its warnings, and what noise promises."""
    work = plan.work
    console.print(
        f"{plan.model}: {plan.layers} layers, {plan.tokens} tokens a row; a client of {work.rows:,} rows, steps of "
        f"{work.step_rows}, {work.passes:,} sample passes a round through the body and {work.local + work.scored:,} "
        "without it",
        highlight=False,
        soft_wrap=True,
    )
    console.print(_cuts(plan, best))
    console.print(CAPTION, style="dim", highlight=False, soft_wrap=True)
    console.print(_beside(plan))
    chosen = best.cut.cut
    console.print(
        f"recommended: split.head_layers = {chosen.head}, split.tail_layers = {chosen.tail}: {best.reason}.",
        style="bold",
        highlight=False,
        soft_wrap=True,
    )
    for warning in best.warnings:
        console.print(f"[yellow]note:[/] {warning}.", highlight=False, soft_wrap=True)
    if release is not None:
        console.print(f"noise on {said(release)}.", highlight=False, soft_wrap=True)


def _cuts(plan: SplitPlan, best: Recommendation) -> Table:
    table = Table(title="One client, by cut", title_justify="left", box=None, padding=(0, 1, 0, 0))
    for heading in ("cut", "memory", "FLOPs", "share", "step ↑", "step ↓", "round ↑", "round ↓", "full", "LoRA"):
        table.add_column(heading, justify="right", no_wrap=True)
    for cost in plan.cuts:
        style = "bold green" if cost is best.cut else "bold" if cost.cut == plan.wanted else None
        table.add_row(*_cells(plan, cost), style=style)
    return table


def _cells(plan: SplitPlan, cost: CutCost) -> list[str]:
    cut = cost.cut
    return [
        f"{cut.head}+{cut.body}+{cut.tail}",
        bytes_text(cost.memory.total),
        count_text(cost.step_flops),
        f"{100 * cost.flops / plan.full.flops:.3g} %" if plan.full.flops else "–",
        *(bytes_text(count) for count in (cost.step.up, cost.step.down, cost.round.up, cost.round.down)),
        _even(cost.even_full),
        _even(cost.even_lora),
    ]


def _beside(plan: SplitPlan) -> Table:
    table = Table(title="The same client without a split", title_justify="left", box=None, padding=(0, 1, 0, 0))
    for heading in ("", "memory", "trained", "FLOPs a round", "round ↑", "round ↓"):
        table.add_column(heading, justify="right" if heading else "left")
    for other in (plan.full, plan.lora):
        sizes = bytes_text(other.update.up), bytes_text(other.update.down)
        memory = bytes_text(other.memory.total)
        table.add_row(f"federated {other.name}", memory, count_text(other.trained), count_text(other.flops), *sizes)
    return table


def _even(passes: float | None) -> str:
    return "–" if passes is None else f"{passes:,.0f}"


def count_text(count: float) -> str:
    """Three significant digits with a unit: `85.8 M`, `1.02 T`."""
    power = 0
    while count >= 1000 and power < len(_UNITS) - 1:
        count, power = count / 1000, power + 1
    return f"{count:.3g} {_UNITS[power]}".strip()
