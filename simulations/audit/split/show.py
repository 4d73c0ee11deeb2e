"""What a person sees of the audit of a split: recovery by depth beside a guess, the labels, and what follows."""

from rich.console import Console
from rich.table import Table

from fedtune.runs.words import percent_text, seconds_text
from fedtune.split.release import said, shown
from simulations.audit.split.result import LabelLeak, Leak, SplitAudit

WHAT = {
    "tokens": "share of the tokens that is recovered",
    "variance": "share of the images' variance that is recovered",
}


def show(result: SplitAudit, console: Console) -> None:
    """Print every attack, the labels, and a verdict."""
    sent = result.activations
    if result.noise_multiplier:
        sent += f", rows clipped to {result.clip:g}, noise {result.noise_multiplier:g}"
    console.print(
        f"{result.model} on {result.source}: {result.private_rows} private rows, {result.public_rows} public ones of "
        f"{result.public_source}; sent as {sent}; {seconds_text(result.seconds)}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"{WHAT[result.measure]}, by layers in the head:")
    console.print(_leaks(result))
    console.print(_labels(result.labels), highlight=False, soft_wrap=True)
    if result.release is not None:
        once = shown(result.release, 1)
        console.print(f"the noise promises, of the one sending attacked here: {once}", highlight=False, soft_wrap=True)
        console.print(f"and of the run: {said(result.release)}", highlight=False, soft_wrap=True)
    console.print(verdict(result), style="bold", highlight=False, soft_wrap=True)


def verdict(result: SplitAudit) -> str:
    """One sentence over all depths."""
    recovering = sorted({leak.head_layers for leak in result.leaks if leak.recovers})
    if not recovering:
        return "No attack recovered more than a guess would, at any depth; that is no proof that none could."
    deepest = result.strongest(recovering[-1])
    what = "of the tokens" if result.measure == "tokens" else "of the images' variance"
    return (
        f"The coordinator reads rows off the activations behind up to {deepest.head_layers} of {result.layers} layers, "
        f"and {percent_text(deepest.recovered)} {what} there: this split is not private."
    )


def _leaks(result: SplitAudit) -> Table:
    images = result.measure == "variance"
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("layers", "recovered", "±", "a guess", *(("PSNR", "SSIM") if images else ())):
        table.add_column(heading, justify="right")
    table.add_column("attack")
    table.add_column("")
    for leak in result.leaks:
        table.add_row(*_cells(leak, images=images))
    return table


def _cells(leak: Leak, *, images: bool) -> list[str]:
    likeness = [f"{leak.psnr:.1f} dB", f"{leak.ssim:.2f}"] if images else []
    return [
        str(leak.head_layers),
        percent_text(leak.recovered),
        f"{100 * leak.error:.1f}",
        percent_text(leak.guess),
        *likeness,
        leak.attack,
        "recovers" if leak.recovers else "no more than a guess",
    ]


def _labels(labels: LabelLeak | None) -> str:
    if labels is None:
        return "labels: no gradient leaves that could tell them (nothing before the cut is trained, or a causal LM)"
    return (
        f"labels, from gradients at the body's output ({labels.head_layers} + {labels.tail_layers} layers at the "
        f"client): {percent_text(labels.matched)} through the tail that the coordinator gave out, "
        f"{percent_text(labels.matched_later)} after a local epoch; {percent_text(labels.clustered)} and "
        f"{percent_text(labels.clustered_later)} by clusters with the best names (by chance "
        f"{percent_text(labels.clustered_by_chance)}); the most frequent label {percent_text(labels.most_frequent)}, "
        f"the model's own guess {percent_text(labels.predicted)}"
    )
