"""The `[federation]` section: who takes part in a round, how long it waits, and whether it waits at all."""

from typing import Annotated

from pydantic import Field, StringConstraints

from fedtune.recipe.base import Section

RankRule = Annotated[str, StringConstraints(pattern=r"^[^=]+=[1-9][0-9]{0,3}$")]


class FederationSection(Section):
    """Rounds, sampling, deadlines, evaluation and stopping."""

    rounds: int = Field(3, ge=1, le=1_000_000)
    """How many rounds."""
    clients_per_round: int = Field(0, ge=0)
    """How many updates a round wants; 0 for every client that is there."""
    over_select: float = Field(0.0, ge=0, le=4)
    """Ask this share more clients than wanted and close the round when enough have replied (0.3 asks 30 % more)."""
    min_clients: int = Field(1, ge=1)
    """Wait until this many clients are connected before the first round."""
    min_replies: int = Field(1, ge=1)
    """A round with fewer good updates changes nothing."""
    deadline_s: float = Field(3600.0, gt=0)
    """Seconds after which a round closes with the updates it has."""
    evaluate_every: int = Field(1, ge=0)
    """Evaluate after every so many rounds, and after the last; 0 only before the first and after the last."""
    evaluate_clients: int = Field(0, ge=0)
    """How many clients evaluate on their held-out rows; 0 for all of them, where `data.holdout_fraction` is set."""
    early_stop: int = Field(0, ge=0)
    """Stop after so many evaluations without a better one; 0 never."""
    max_failed_rounds: int = Field(5, ge=1)
    """Give up after so many rounds in a row with too few replies."""
    buffer: int = Field(0, ge=0)
    """Asynchronous rounds (FedBuff): clients work at their own pace, and so many updates make a new model; 0: in each
    round all train from its model, and the round waits for them."""
    concurrency: int = Field(0, ge=0)
    """Of asynchronous rounds: how many clients are at work at any time; 0 for every client that is there."""
    staleness_exponent: float = Field(0.5, ge=0, le=4)
    """Of asynchronous rounds: an update that missed s rounds counts 1/(1 + s) to this power; 0: as much as any."""
    max_staleness: int = Field(0, ge=0)
    """Of asynchronous rounds: an update that missed more rounds than this is left out; 0: none is."""
    ranks: tuple[RankRule, ...] = ()
    """Clients of smaller rank, as `pattern=rank`: ["hospital-b=4", "*7=2"]. The first pattern that fits a client's name
    counts; the others have `adapter.rank` (of `ravan`: `adapter.heads`)."""
