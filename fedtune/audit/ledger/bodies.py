"""What each kind of entry says: mechanism events and commitments, never content."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from fedtune.audit.ledger.head import Hex64
from fedtune.privacy.events import Event

What = Literal["start", "run", "train", "evaluate"]
Kind = Literal["open", "reserve", "commit", "abort", "close"]
Pseudonym = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Round = Annotated[int, Field(ge=0, le=2**53)]


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OpenBody(_Body):
    """The first entry: which run this is, and what it is going to do."""

    format: Literal[1] = 1
    run: str
    """The run's random id."""
    created: str
    recipe: dict[str, Any]
    """The whole recipe, its noise settled."""
    recipe_fingerprint: str
    plan: dict[str, Any]
    """`Plan.as_json()`."""
    versions: dict[str, str]
    base_model_fingerprint: str
    public_key: Hex64
    link: str = ""
    """What carried the messages: `grpc`, `simulation`, `flower`."""


class Drawn(_Body):
    """How the clients of a round were drawn, and what binds the coordinator to the sample without naming it."""

    population: Annotated[int, Field(ge=0)]
    sampling_rate: Annotated[float, Field(gt=0, le=1)]
    commitments: tuple[Hex64, ...] = ()
    """To the sample (`draws.commit`): it stays secret where amplification by sampling rests on that."""
    asked: tuple[Pseudonym, ...] = ()
    """The clients themselves, sorted, where nothing rests on their secrecy, and all on their rounds lying apart."""


class ReserveBody(_Body):
    """Written before anything is sent: what will be spent, whatever comes of it."""

    round: Round
    what: What
    events: tuple[Event, ...]
    participants: tuple[Pseudonym, ...]
    """Who is charged, sorted; nobody named: every enrolled client is."""
    drawn: Drawn | None = None

    @model_validator(mode="after")
    def _sorted_once(self) -> "ReserveBody":
        if list(self.participants) != sorted(set(self.participants)):
            raise ValueError("participants are not sorted, or one is named twice")
        return self


class CommitBody(_Body):
    """Written after the result is known and before it is released."""

    round: Round
    what: What
    outcomes: dict[Pseudonym, str]
    """By pseudonym; empty for an evaluation, and where amplification rests on nobody knowing who was drawn."""
    state_digest: str
    """`Global.digest()` of the result."""
    root: Hex64
    """Merkle root over the round: `entry.leaves_of`."""


class AbortBody(_Body):
    """Written where a reservation came to nothing; it is spent all the same."""

    round: Round
    what: What
    reason: Annotated[str, StringConstraints(max_length=200)]
    root: Hex64


class CloseBody(_Body):
    """Written when the run has ended; a run that is taken up again goes on behind it."""

    rounds: Round
    adapter_digest: Hex64 | Literal[""]
    """`entry.folder_digest` of the adapter that was released; empty where there is no global one."""


Body = OpenBody | ReserveBody | CommitBody | AbortBody | CloseBody
BODIES: dict[Kind, type[Body]] = {
    "open": OpenBody,
    "reserve": ReserveBody,
    "commit": CommitBody,
    "abort": AbortBody,
    "close": CloseBody,
}
KINDS: dict[type[Body], Kind] = {body: kind for kind, body in BODIES.items()}
