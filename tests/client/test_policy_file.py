"""Policy files: read strictly, and every mistake is said with its line."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.policy.load import load_policy, parse_policy
from client.policy.policy import Policy
from fedtune.errors import PrivacyError

WHOLE = """
dataset = "ward-3"
units = ["example", "client"]
trust = "client"
noise_multiplier_min = 0.8
models = ["minilm", "0123456789abcdef0123456789abcdef"]
adapters = ["square"]
schemes = ["mean"]
init = ["weights", "random"]
max_steps_per_round = 200
max_rounds_per_run = 50
hours = "20:00-06:00"
timezone = "Europe/Berlin"
expires = 2027-01-31

[budget]
epsilon = 3
delta = 1e-5
"""

MISTAKES = {
    'dataset = "a b"': 'line 1: dataset must be up to 64 letters, digits, dots, dashes and underscores, not "a b"',
    'dataset = "../x"': "line 1: dataset must be up to 64 letters",
    "units = []": "policy.toml: dataset is missing",
    'dataset = "a"\nunit = ["example"]': 'line 2: unit is not a key of a policy; did you mean "units"?',
    'dataset = "a"\nunits = ["row"]': 'line 2: units must be a list of "example" or "client"',
    'dataset = "a"\nadapters = "lora"': 'line 2: adapters must be a list of "lora"',
    'dataset = "a"\nhours = "8-10"': 'line 2: hours must be two times of day as in "20:00-06:00", not "8-10"',
    'dataset = "a"\ntimezone = "Mars"': "line 2: timezone must be a time zone",
    'dataset = "a"\nexpires = "soon"': "line 2: expires must be a date as in 2027-01-31, without quotes",
    'dataset = "a"\nmax_steps_per_round = 0': "line 2: max_steps_per_round must be a whole number of at least 1, not 0",
    'dataset = "a"\nnoise_multiplier_min = inf': "line 2: noise_multiplier_min must be a number of at least 0",
    'dataset = "a"\nwithout_privacy = 1': "line 2: without_privacy must be true or false",
    'dataset = "a"\nbudget = 3': "line 2: budget must be a section",
    'dataset = "a"\n[budget]\nepsilon = 3.0': "line 2: budget.delta is missing: a number above 0 and below 0.1",
    'dataset = "a"\n[budget]\nepsilon = 0\ndelta = 1e-5': "line 3: budget.epsilon must be a number above 0, not 0",
    'dataset = "a"\n[budget]\nepsilon = 1\ndelta = 0.5': "line 4: budget.delta must be a number above 0 and below 0.1",
    'dataset = "a"\n[budget]\nepsilon = 1\ndelta = 1e-5\nrun = 2': "line 5: budget.run is not a key of a policy",
    'dataset = "a"\n[budgets]\nepsilon = 1': 'line 2: budgets is not a key of a policy; did you mean "budget"?',
    "dataset =": "line 1: this is not TOML",
}


def test_a_whole_policy_is_read() -> None:
    policy = parse_policy(WHOLE)
    assert policy.budget is not None
    assert (policy.budget.epsilon, policy.budget.delta) == (3.0, 1e-5)
    assert policy.init == ("weights", "random")
    assert set(tomllib.loads(WHOLE)) | {"without_privacy"} == set(Policy.model_fields)


def test_the_least_policy_limits_what_is_not_private_and_no_more() -> None:
    policy = parse_policy('dataset = "a"')
    assert (policy.units, policy.without_privacy, policy.budget) == (("example",), False, None)


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_is_said_with_its_line(text: str) -> None:
    with pytest.raises(PrivacyError) as caught:
        parse_policy(text)
    assert MISTAKES[text] in str(caught.value)


def test_all_mistakes_are_said_at_once_in_the_order_of_the_file() -> None:
    with pytest.raises(PrivacyError) as caught:
        parse_policy('hours = "x"\ndataset = 3\n[budget]\nepsilon = -1\ndelta = 1e-5')
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        f"policy.toml, line {number}" for number in (1, 2, 4)
    ]


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match=r"missing\.toml cannot be read"):
        load_policy(tmp_path / "missing.toml")
    (tmp_path / "policy.toml").write_bytes(b"dataset = '\xff'")
    with pytest.raises(PrivacyError, match="UTF-8"):
        load_policy(tmp_path / "policy.toml")


TOML = st.recursive(
    st.sampled_from(["1", "-1", "1.5", "true", '"x"', "2027-01-31", "07:00:00", "inf", '"example"', "1e-5"]),
    lambda inner: st.lists(inner, max_size=3).map(lambda parts: f"[{', '.join(parts)}]"),
    max_leaves=4,
)
KEYS = st.sampled_from([*Policy.model_fields, "budget.epsilon", "budget.delta", "budget.x", "other", "dataset.x"])


@given(st.dictionaries(KEYS, TOML, max_size=5))
def test_whatever_is_written_is_read_or_refused_in_sentences_with_places(values: dict[str, str]) -> None:
    text = "".join(f"{key} = {value}\n" for key, value in values.items())
    try:
        said = [parse_policy(text).dataset]
    except PrivacyError as error:
        said = str(error).splitlines()
        assert all(line.startswith("policy.toml") for line in said)
    assert all(said)
