"""Rules of client-level privacy: what clipped updates and noise at the coordinator cannot be mixed with."""

from fedtune.recipe.recipe import Recipe
from fedtune.recipe.rule import Rule, into

CLIENT_RULES: list[Rule] = []
"""In the order of this file."""

refuses = into(CLIENT_RULES)

MOST_EXPECTED = 8192
"""Updates of a round, in the mean: half of what the coordinator's exact sum takes."""


def _client(r: Recipe) -> bool:
    return r.privacy.unit == "client"


def _central(r: Recipe) -> bool:
    return _client(r) and r.privacy.noise == "coordinator"


@refuses("privacy.population", "privacy.unit")
def _population_is_open(r: Recipe) -> str | None:
    if not _central(r) or r.privacy.population:
        return None
    return (
        "privacy.population is open: the sum is divided by the number of enrolled clients, which is public, never by "
        "how many replied; set it to the number of clients that were given keys"
    )


@refuses("privacy.sampling_rate", "privacy.mechanism")
def _no_rate_of_clients(r: Recipe) -> str | None:
    if not _central(r) or r.privacy.mechanism != "sampled" or r.privacy.sampling_rate:
        return None
    return (
        "privacy.sampling_rate is open: the coordinator draws each client into a round with this probability; set it, "
        "for example 0.1, or 1.0 to ask everybody and claim no amplification"
    )


@refuses("privacy.mechanism", "privacy.sampling_rate")
def _rate_without_sampling(r: Recipe) -> str | None:
    if not _client(r) or r.privacy.sampling_rate is None:
        return None
    if r.privacy.mechanism == "banded":
        return (
            'privacy.mechanism = "banded" draws no sample, so privacy.sampling_rate would claim an amplification that '
            'is not there; take it out (clients_per_round says how many take part), or set mechanism = "sampled"'
        )
    if r.privacy.noise == "client":
        return (
            'privacy.noise = "client" hides an update from the coordinator itself, which knows who was drawn: a '
            'sampling_rate amplifies nothing; take it out, or set noise = "coordinator"'
        )
    return None


@refuses("federation.clients_per_round", "privacy.sampling_rate")
def _fixed_number_of_clients(r: Recipe) -> str | None:
    if not _central(r) or r.privacy.mechanism != "sampled" or not r.federation.clients_per_round:
        return None
    return (
        f"federation.clients_per_round = {r.federation.clients_per_round} draws a sample of fixed size, and "
        "privacy.sampling_rate is accounted as independent draws; take clients_per_round out"
    )


@refuses("federation.clients_per_round", "privacy.mechanism")
def _banded_without_a_number(r: Recipe) -> str | None:
    if not _central(r) or r.privacy.mechanism != "banded" or r.federation.clients_per_round:
        return None
    return (
        'privacy.mechanism = "banded" divides each round\'s sum by federation.clients_per_round, which must be public; '
        "set it"
    )


@refuses("privacy.min_separation", "federation.clients_per_round")
def _too_few_to_separate(r: Recipe) -> str | None:
    section, asked = r.privacy, r.federation.clients_per_round
    if not _central(r) or section.mechanism != "banded" or asked * section.min_separation <= section.population:
        return None
    return (
        f"privacy.min_separation = {section.min_separation} rounds of {asked} different clients need "
        f"{asked * section.min_separation} clients, and privacy.population is {section.population}; lower one of the "
        "first two"
    )


@refuses("federation.over_select", "privacy.unit")
def _over_selection(r: Recipe) -> str | None:
    if not _client(r) or not r.federation.over_select:
        return None
    return (
        "federation.over_select closes a round with whoever is fastest, which is no random sample; take it out: under "
        'privacy.unit = "client" a round needs no certain number of replies'
    )


@refuses("federation.min_replies", "privacy.unit")
def _replies_that_matter(r: Recipe) -> str | None:
    if not _central(r) or r.federation.min_replies == 1:
        return None
    return (
        f"federation.min_replies = {r.federation.min_replies} would show by whether a round counts how many took part; "
        "leave it at 1: a round of few is a round of much noise"
    )


@refuses("aggregation.scheme", "privacy.unit")
def _non_linear_scheme(r: Recipe) -> str | None:
    if not _client(r) or r.aggregation.scheme == "mean":
        return None
    return (
        f'aggregation.scheme = "{r.aggregation.scheme}" does more than to add updates up, so clipping does not '
        'bound what one client changes; take "mean" (Fed-SB, FFA-LoRA, RAVAN, FedIT), or unit = "example"'
    )


@refuses("aggregation.rule", "privacy.unit")
def _robust_rule(r: Recipe) -> str | None:
    section = r.aggregation
    if not _client(r) or (section.rule == "mean" and not section.before_rule):
        return None
    return (
        f'aggregation.rule = "{section.rule}" chooses among updates, so clipping does not bound what one client '
        'changes; set rule = "mean" without before_rule (privacy.clip bounds every client too), or unit = "example"'
    )


@refuses("aggregation.diagnose", "privacy.unit")
def _diagnosis(r: Recipe) -> str | None:
    if not _client(r) or not r.aggregation.diagnose:
        return None
    return (
        "aggregation.diagnose publishes a figure about the updates before their noise; take it out under "
        'privacy.unit = "client", and diagnose a run on rows that nobody has to hide'
    )


@refuses("federation.ranks", "privacy.unit")
def _ranks_under_client_privacy(r: Recipe) -> str | None:
    if not _client(r) or not r.federation.ranks:
        return None
    return (
        "federation.ranks has each number divided by how many clients sent it, which shows who took part; take it out "
        'under privacy.unit = "client", or set unit = "example"'
    )


@refuses("compression.feedback", "privacy.unit")
def _copies_under_client_privacy(r: Recipe) -> str | None:
    if not _client(r) or r.compression.feedback != "ef21":
        return None
    return (
        "compression.feedback = \"ef21\" puts a copy of every client's update into the coordinator's checkpoints; set "
        'feedback = "classic", which stays with the client, or "none"'
    )


@refuses("privacy.noise", "privacy.mechanism")
def _local_noise_with_central_options(r: Recipe) -> str | None:
    if not _client(r) or r.privacy.noise == "coordinator":
        return None
    if r.privacy.mechanism == "banded" or r.privacy.clip_quantile is not None:
        return (
            'privacy.noise = "client" adds independent noise to each update with a fixed clip; take mechanism = '
            '"banded" and clip_quantile out, or set noise = "coordinator"'
        )
    return None


@refuses("privacy.clip_quantile", "privacy.mechanism")
def _adaptive_clip_of_banded_noise(r: Recipe) -> str | None:
    if not _central(r) or r.privacy.mechanism != "banded" or r.privacy.clip_quantile is None:
        return None
    return (
        'privacy.clip_quantile changes the clip from round to round, and "banded" noise is correlated over rounds at '
        'one clip; take clip_quantile out, or set mechanism = "sampled"'
    )


@refuses("privacy.sampling_rate", "privacy.population")
def _too_many_in_a_sum(r: Recipe) -> str | None:
    section = r.privacy
    asked = r.federation.clients_per_round or round((section.sampling_rate or 0) * section.population)
    if not _central(r) or asked <= MOST_EXPECTED:
        return None
    return (
        f"a round would add up about {asked} updates, and the exact sum holds {2 * MOST_EXPECTED}; lower "
        'privacy.sampling_rate (federation.clients_per_round under "banded") or privacy.population'
    )


@refuses("federation.min_clients", "privacy.population")
def _more_clients_than_the_population(r: Recipe) -> str | None:
    if not _central(r) or not r.privacy.population or r.federation.min_clients <= r.privacy.population:
        return None
    return (
        f"federation.min_clients = {r.federation.min_clients} waits for more clients than privacy.population = "
        f"{r.privacy.population} declares; lower the one or raise the other"
    )


@refuses("data.holdout_fraction", "privacy.unit")
def _rows_kept_back_for_nothing(r: Recipe) -> str | None:
    if not _client(r) or not r.data.holdout_fraction:
        return None
    return (
        'data.holdout_fraction keeps rows back for scores that clients withhold under privacy.unit = "client"; take it '
        "out, and set data.test_source to rows that nobody has to hide"
    )
