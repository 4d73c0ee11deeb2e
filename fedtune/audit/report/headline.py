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
    differ = f"{'one row' if facts.plan.unit == 'example' else 'one participant'} {RELATIONS[facts.plan.relation]}"
    return (
        f"{_whoever(facts)} cannot tell {_whether(facts)} with fewer errors than these: {_errors(facts)}. That is "
        f"(ε, δ)-differential privacy with ε = {epsilon_text(loss.epsilon)} and δ = {delta_text(loss.delta)}, where "
        f"the compared worlds differ in {differ}."
    )


def explanations(facts: Facts) -> list[str]:
    """What that rests on and what it leaves out, a sentence or two each."""
    return [text for text in (_per_person(facts), _lost(facts), _simulated(facts), _alone(facts)) if text]


def _whoever(facts: Facts) -> str:
    seer = "Whoever sees everything that this run released"
    return f"{seer}, even the coordinator itself," if facts.plan.trust == "client" else seer


def _whether(facts: Facts) -> str:
    if facts.plan.unit == "example":
        return "whether any one row of any one participant was learned from"
    if facts.is_local:
        return "which of any two sets of rows a participant has"
    return "whether any one participant took part with its rows"


def _errors(facts: Facts) -> str:
    found = bound_text(facts.loss.at(0.01).true_positive_rate)
    if facts.is_local:
        return f"if 1 % with the one set are taken for the other, at most {found} with the other are recognised"
    who = "rows" if facts.plan.unit == "example" else "participants"
    return f"if 1 % of absent {who} are wrongly accused, at most {found} of the present ones are found"


def _per_person(facts: Facts) -> str:
    if facts.plan.unit != "example":
        return ""
    return (
        "A person who stands in several rows, or in the data of several participants, is hidden less: k rows of one "
        "participant have at most k times this ε, at a larger δ, and a whole participant's data set is not hidden."
    )


def _lost(facts: Facts) -> str:
    lost = len([c for c in facts.history.charges if c.ending != "committed"])
    if not lost:
        return ""
    return f"{count_text(lost, 'charge')} came to nothing and {'is' if lost == 1 else 'are'} in ε all the same."


def _simulated(facts: Facts) -> str:
    if facts.history.opened.link != "simulation":
        return ""
    return (
        "This was a simulation: every participant's rows were on one machine. What is said of the coordinator holds "
        "for a run of this recipe over a link, not for whoever ran this."
    )


def _alone(_: Facts) -> str:
    return (
        "This is about this run alone. Other runs on the same data, the tries before it that chose its settings "
        "included, add to what is known of the same people: each participant's own budget book sums them up."
    )
