"""What holds of SFPrompt's published claims (arXiv 2407.17533), 0.46 % of the compute and 53 % fewer bytes, and why."""

from collections.abc import Iterator, Sequence

from fedtune.runs.words import bytes_text, percent_text
from simulations.studies.split import FULL, LORA, SFPROMPT
from simulations.studies.split_costs import published
from simulations.studies.split_rows import SplitRow

COMPUTE, FEWER = 0.0046, 0.53
"""Of a client's FLOPs over those of full fine-tuning, and of the bytes saved against it."""


def claims(rows: Sequence[SplitRow]) -> Iterator[str]:
    """Of one world; nothing where SFPrompt came to no end."""
    by_name = {row.contender: row for row in rows}
    one, full, lora = (by_name.get(name) for name in (SFPROMPT, FULL, LORA))
    if one is None or full is None or lora is None or one.both is None or one.bytes_share is None:
        return
    yield compute_claim(one)
    yield bytes_claim(one, one.bytes_share)
    yield lora_claim(one, lora)


def compute_claim(row: SplitRow) -> str:
    """The share of local compute, and what it is made of."""
    passed = f"{row.alone:,} passes from head to tail alone and {row.passes:,} through the body"
    return (
        f"**0.46 % of the local compute: {_verdict(row.flops_share <= COMPUTE)}.** A client of `{row.contender}` does "
        f"{percent_text(row.flops_share)} of the FLOPs of full fine-tuning. The layers that it keeps are a share of "
        f"the model that no schedule makes smaller, and a round takes them {passed}; soft prompts add tokens to each."
    )


def bytes_claim(row: SplitRow, share: float) -> str:
    """The bytes against full fine-tuning, with the break-even in sample passes."""
    fewer = f"{percent_text(abs(1 - share))} {'fewer' if share <= 1 else 'more'} bytes"
    even = "it never sends less" if row.even_full is None else f"the two are even at {row.even_full:,.0f} sample passes"
    return (
        f"**53 % fewer bytes than full fine-tuning: {_verdict(share <= 1 - FEWER)}.** {fewer}, measured, with "
        f"{row.passes:,} sample passes a round through the body; {even} a round, for the traffic of a split grows with "
        f"every pass and that of full fine-tuning does not."
    )


def lora_claim(row: SplitRow, lora: SplitRow) -> str:
    """The same against LoRA, which the paper does not compare with."""
    if row.even_lora is None:
        even = "There is no number of passes at which it sends less: what the split trains is larger than the adapter."
    else:
        even = f"The two are even at {row.even_lora:,.0f} sample passes a round; here are {row.passes:,}."
    times = (row.both or 0.0) / lora.both if lora.both else float("nan")
    return (
        f"**Against federated LoRA**, which was not part of the published comparison, `{row.contender}` sends "
        f"{times:.3g} times the bytes, does {percent_text(row.flops / lora.flops)} of its FLOPs and takes "
        f"{bytes_text(row.memory)} of memory against {bytes_text(lora.memory)}. {even}"
    )


def published_claims() -> str:
    """The paper's own setting, by formula."""
    found = published()
    return (
        f"ViT-B/16 at 224 pixels with five prompt tokens, fp32, by formula: a sample pass moves "
        f"{bytes_text(found.row)}, so that full fine-tuning is even at {found.even_full:,.0f} passes a round, and 53 % "
        f"fewer bytes are sent at {found.saves_as_much:,.0f}. With one layer at each end, a local pass for every "
        f"pass of full fine-tuning and half of the rows kept, a client does {100 * found.share:.3g} % of the FLOPs; "
        f"where it keeps the embeddings and the task's head alone, {100 * found.least_share:.2g} %. So small a "
        "share as 0.46 % needs a client that keeps next to no layer, and 53 % fewer bytes need few rows: neither "
        "is a property of the method at every cut and size."
    )


def _verdict(holds: bool) -> str:
    return "holds here" if holds else "does not hold here"
