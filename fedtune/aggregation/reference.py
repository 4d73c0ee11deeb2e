"""The table of all schemes as Markdown: read off what they declare, so that it cannot say anything else."""

from collections.abc import Iterable

from fedtune.aggregation.schemes import SCHEMES
from fedtune.recipe.adapter import AdapterForm

FORMS: dict[AdapterForm, str] = {
    "lora": "`lora`",
    "ffa": "`lora` with `freeze_a`",
    "square": "`square`",
    "ravan": "`ravan`",
    "peft": "`peft`",
    "prompt": "`prompt`",
    "full": "`full`",
}


def reference() -> str:
    """One table of what each scheme is and promises, one of what it costs."""
    return "\n".join([*_promises(), "", *_costs(), ""])


def _promises() -> Iterable[str]:
    yield "| `aggregation.scheme` | what it does | adapters | exact for | different ranks | linear |"
    yield "|---|---|---|---|---|---|"
    for name, scheme in SCHEMES.items():
        yield (
            f"| `{name}` | {scheme.title} | {_forms(scheme.forms)} | {_forms(scheme.exact_for)} | "
            f"{_forms(scheme.heterogeneous_for)} | {'yes' if scheme.aggregator.linear else 'no'} |"
        )


def _costs() -> Iterable[str]:
    yield "| `aggregation.scheme` | numbers up | numbers down | coordinator's memory grows by | to know |"
    yield "|---|---|---|---|---|"
    for name, scheme in SCHEMES.items():
        formula = scheme.formula
        yield f"| `{name}` | {formula['up']} | {formula['down']} | {scheme.growth} | {scheme.note} |"


def _forms(forms: Iterable[AdapterForm]) -> str:
    found = set(forms)
    return ", ".join(words for form, words in FORMS.items() if form in found) or "–"


if __name__ == "__main__":
    print(reference(), end="")
