"""The report in a few sentences for whoever reads nothing else."""

from fedtune.audit.report.facts import Facts
from fedtune.audit.report.words import RELATIONS, bound_text, count_text, delta_text, epsilon_text


def headline(facts: Facts) -> str:
    """What the run guarantees, or that it does not."""
    loss = facts.loss
    if not facts.is_sound:
        return "This report vouches for no guarantee: at least one check of the run has failed, as said below."
    if loss.epsilon is None:
        return "What this run released bounds nobody's risk: its ε is infinite at its δ."
    return (
        f"{_whoever(facts)} can barely tell {_whether(facts)}: (ε, δ)-differential privacy with ε = "
        f"{epsilon_text(loss.epsilon)} and δ = {delta_text(loss.delta)}, where the compared worlds differ in "
        f"{'one row' if facts.plan.unit == 'example' else 'one participant'} "
        f"{RELATIONS[facts.plan.relation]}."
    )


def explanations(facts: Facts) -> list[str]:
    """What that means, what it rests on and what it leaves out, a sentence or two each."""
    return [text for text in (_as_an_attack(facts), _per_person(facts), _aborted(facts), _alone(facts)) if text]


def _whoever(facts: Facts) -> str:
    seer = "Whoever sees everything that this run released"
    return f"{seer}, even the coordinator itself," if facts.plan.trust == "client" else seer


def _whether(facts: Facts) -> str:
    if facts.plan.unit == "example":
        return "whether any one row of any one participant was learned from"
    if facts.is_local:
        return "what any one participant's data were"
    return "whether any one participant took part with its data"


def _as_an_attack(facts: Facts) -> str:
    who = "row" if facts.plan.unit == "example" else "participant"
    return (
        f"As an attack: any test that wrongly accuses 1 of 100 absent {who}s finds at most "
        f"{bound_text(facts.loss.at(0.01).true_positive_rate)} of those that are present; blind guessing finds 1 %."
    )


def _per_person(facts: Facts) -> str:
    if facts.plan.unit != "example":
        return ""
    return (
        "A person who stands in several rows, or in the data of several participants, is hidden less: k rows of one "
        "participant have at most k times this ε, and a whole participant's data set is not hidden."
    )


def _aborted(facts: Facts) -> str:
    lost = len([c for c in facts.history.charges if c.ending != "committed"])
    if not lost:
        return ""
    verb = "is" if lost == 1 else "are"
    return f"{count_text(lost, 'charge').capitalize()} came to nothing and {verb} in ε all the same."


def _alone(_: Facts) -> str:
    return (
        "This is about this run alone. Other runs on the same data, the tries before it that chose its settings "
        "included, add to what is known of the same people: each participant's own budget file sums them up."
    )
