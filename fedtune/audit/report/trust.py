"""Who has to be trusted with what, and who is held off by what: the trust model and the table of threats."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from fedtune.audit.report.facts import Facts

Answer = Literal["yes", "partly", "no"]

LINKS: Mapping[str, str] = MappingProxyType(
    {
        "grpc": "gRPC over TLS; coordinator and participants show certificates of the run's own authority",
        "simulation": "none: every participant was simulated on one machine, and nobody's separation was tested",
        "flower": "Flower's own runtime; whether it used TLS is not in the ledger",
        "": "not in the ledger; over gRPC both sides show certificates (TLS), a simulation sends nothing",
    }
)


@dataclass(frozen=True, slots=True)
class Statement:
    """One row of the trust model."""

    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class Threat:
    """One kind of onlooker or attacker."""

    who: str
    protected: Answer
    by: str


def trust_of(facts: Facts) -> tuple[Statement, ...]:
    """The trust model."""
    return (
        Statement("Sees raw rows", "each participant, its own; no message carries rows"),
        Statement("Sees updates before noise", _sees_updates(facts)),
        Statement("Secure aggregation", "no: the coordinator reads each participant's update by itself"),
        Statement("Adds the noise", _adds_noise(facts)),
        Statement("Draws the samples", _draws(facts)),
        Statement("Keeps this ledger", "the coordinator; participants who follow its head see a rollback or a fork"),
        Statement("Link", LINKS.get(facts.history.opened.link, LINKS[""])),
    )


def threats_of(facts: Facts) -> tuple[Threat, ...]:
    """The onlookers that a reader will ask about; `protected` is about the unit that the report names."""
    covered = "ε of this report, which sums up every round"
    central = facts.plan.trust == "coordinator"
    return (
        Threat("whoever gets the finished adapter", "yes", covered),
        Threat("other participants, who are sent the adapter of each round", "yes", covered),
        Threat("the coordinator, and whoever breaks into it while it runs", *_coordinator(facts)),
        Threat("participants who work together", "yes", "no participant's noise is another's to take out"),
        Threat(
            "participants who work together with the coordinator",
            "no" if central else "yes",
            "the coordinator knows every update" if central else "each one's noise is its own secret",
        ),
        Threat("whoever listens on the network", *_listener(facts)),
        Threat("whoever reads the ledger", *_ledger_reader(facts)),
        Threat("whoever controls a participant's machine", "no", "that machine holds the rows themselves"),
        Threat("whoever sees other runs on the same data", "no", "those compose with this one; sum them up"),
        Threat("a participant that sends poison", "no", "no matter of privacy; clipping and limits bound its weight"),
    )


def _sees_updates(facts: Facts) -> str:
    if facts.plan.trust == "coordinator":
        return "the coordinator sees every participant's update before it is noised, and must be trusted with it"
    return "nobody but the participant itself: what is sent is noised already"


def _adds_noise(facts: Facts) -> str:
    if facts.plan.trust == "coordinator":
        return "the coordinator, to the sum; who does not trust it must not trust this ε"
    return "each participant, by the program on its own machine"


def _draws(facts: Facts) -> str:
    return {
        "poisson-rows": "each participant draws its rows; nobody else can check that it did",
        "poisson-clients": "the coordinator draws participants and commits to the draw before it asks them"
        if facts.plan.sampling_rate < 1
        else "nobody: every participant is asked, and no amplification is claimed",
        "separated": "nobody: no sample is claimed; the rounds of a participant are kept apart",
        "none": "nobody: no sample is claimed",
    }[facts.plan.sampler]


def _listener(facts: Facts) -> tuple[Answer, str]:
    seen = "who talks when, how long and how much stays visible"
    return {
        "grpc": ("partly", f"TLS hides what is said; {seen}"),
        "simulation": ("yes", "nothing was sent anywhere"),
    }.get(facts.history.opened.link, ("partly", f"TLS hides what is said where the link has it; {seen}"))  # type: ignore[return-value]


def _coordinator(facts: Facts) -> tuple[Answer, str]:
    if facts.plan.trust == "coordinator":
        return "no", "it sees each update before the noise, and there is no secure aggregation"
    if facts.is_local:
        return "yes", "each update is noised before it is sent; ε counts every one of them"
    return "yes", "each step is noised before it is sent: single rows are hidden, the participant as a whole is not"


def _ledger_reader(facts: Facts) -> tuple[Answer, str]:
    if not facts.names_participants:
        if any(charge.outcomes or charge.participants for charge in facts.history.charges):
            return "partly", (
                "it says under pseudonyms who was drawn when, and against whoever links one to a participant the "
                "amplification by sampling does not count: give it to auditors, not to the public"
            )
        return "yes", "it commits to who was drawn and does not say it; the coordinator's file of draws stays secret"
    return "yes", "it holds no content; participants are under pseudonyms, and who took part is not what ε hides"
