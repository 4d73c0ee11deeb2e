"""The JSON headers of the messages: strict, bounded, no unknown keys, no NaN."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, StringConstraints

from fedtune.audit.ledger.head import Head
from fedtune.wire.messages import TaskKind

Name = Annotated[str, StringConstraints(max_length=256)]
HexDigest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{0,64}$")]
Rank = Annotated[int, Field(ge=0, le=4096)]
Count = Annotated[int, Field(ge=0, le=2**53)]


def _widened(value: float) -> str:
    return f"{value:24.16e}"


def _narrowed(value: Any) -> Any:
    return float(value) if isinstance(value, str) else value


Measured = Annotated[float, BeforeValidator(_narrowed), PlainSerializer(_widened)]
"""A float64, exactly, in 24 characters whatever its value: how long a message is depends on no loss and no clock."""


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    run: Name
    round: Count


class LedgerHeader(BaseModel):
    """Of an `Offer`; the links are a tensor of bytes beside it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    format: Literal[1] = 1
    """Of what is hashed and signed (`fedtune.audit.ledger.digests`)."""
    head: Head
    since: Annotated[int, Field(ge=-1, le=2**53)]


class TaskHeader(_Header):
    """Header of a `Task`."""

    kind: TaskKind
    recipe: dict[str, Any]
    recipe_fingerprint: HexDigest
    model_fingerprint: HexDigest
    base: HexDigest
    sketch: dict[str, float] = {}
    shared_digest: HexDigest = ""
    rank: Rank = 0
    shift_from: HexDigest = ""
    shift_key: HexDigest = ""
    chain: Annotated[tuple[HexDigest, ...], Field(max_length=256)] = ()
    chain_rounds: Annotated[tuple[Count, ...], Field(max_length=256)] = ()
    feedback_round: Count = 0
    ledger: LedgerHeader | None = None


class _ReplyHeader(_Header):
    client: Name


class UpdateHeader(_ReplyHeader):
    """Header of an `Update`."""

    base: HexDigest
    stages: tuple[Name, ...] = ()
    examples: Annotated[int, Field(ge=-(2**53), le=2**53)]
    """Negative counts are let through the parser, so that they are refused by name."""
    metrics: Annotated[dict[Name, Measured], Field(max_length=64)] = {}
    rank: Rank = 0
    feedback_round: Count = 0


class EvaluationHeader(_ReplyHeader):
    """Header of an `Evaluation`."""

    base: HexDigest
    examples: Count
    loss_sum: Measured
    correct: Annotated[Measured, Field(ge=0)]


class RefusalHeader(_ReplyHeader):
    """Header of a `Refusal`."""

    reason: Name
    message: Annotated[str, StringConstraints(max_length=2000)]
