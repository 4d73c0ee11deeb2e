"""What lies beside a ledger: keys, the run's secret, the draws; who may read them, and what happens without them."""

import os
import stat

import ledger_examples
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from ledger_examples import a_plan, fill, private_recipe, reserve

from fedtune.audit.ledger import Drawn, LedgerWriter, folder_digest, read_ledger, verify
from fedtune.audit.ledger.draws import check_draws, commit, open_draws
from fedtune.audit.ledger.pseudonym import RunSecret
from fedtune.audit.ledger.signing import Signer, is_signed, public_pem, read_public_key
from fedtune.cli.ledger import ledger as command
from fedtune.errors import LedgerBroken
from fedtune.recipe import FederationSection

CLIENT = {"unit": "client", "sampling_rate": 0.5, "population": 4}


def test_secrets_are_for_their_owner_alone_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        writer = fill(tmp_path)
        commit(tmp_path, 1, ["0" * 32])
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert {name for name, mode in modes.items() if mode == 0o600} == {"ledger.key", "ledger.secret", "ledger.draws"}
    assert set(modes) == {"ledger.key", "ledger.secret", "ledger.draws", "ledger.pub", "ledger.jsonl"}
    assert read_public_key(tmp_path / "ledger.pub") == writer.public_key


def test_no_secret_is_in_the_ledger(tmp_path):
    fill(tmp_path)
    text = (tmp_path / "ledger.jsonl").read_text()
    assert (tmp_path / "ledger.secret").read_text().strip() not in text
    for line in (tmp_path / "ledger.key").read_text().splitlines()[1:-1]:
        assert line not in text


def test_an_existing_key_is_kept_and_another_one_is_refused(tmp_path):
    writer = fill(tmp_path, close=False)
    assert LedgerWriter.of(tmp_path).public_key == writer.public_key
    (tmp_path / "ledger.key").unlink()
    with pytest.raises(LedgerBroken, match="missing"):
        LedgerWriter.of(tmp_path)
    Signer.of(tmp_path)
    with pytest.raises(LedgerBroken, match="not the key of the ledger"):
        LedgerWriter.of(tmp_path)


@pytest.mark.parametrize("name", ["ledger.key", "ledger.secret"])
@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_damaged_key_or_secret_is_said(tmp_path, name, content):
    fill(tmp_path, close=False)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LedgerBroken, match=f"{name}.*restore it"):
        (LedgerWriter.of if name == "ledger.key" else RunSecret.of)(tmp_path)


def test_keys_of_another_kind_are_refused(tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "ledger.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (tmp_path / "p").write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    with pytest.raises(LedgerBroken, match="no Ed25519 key"):
        Signer.of(tmp_path)
    with pytest.raises(LedgerBroken, match="no Ed25519 key"):
        read_public_key(tmp_path / "p")


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_a_signature_is_over_these_bytes_by_this_key(data, other):
    signer = Signer(Ed25519PrivateKey.generate())
    signature = signer.sign(data)
    assert is_signed(signer.public_key, signature, data)
    assert is_signed(signer.public_key, signature, other) == (data == other)
    assert not is_signed(Signer(Ed25519PrivateKey.generate()).public_key, signature, data)
    assert not is_signed("zz", signature, data)
    assert not is_signed(signer.public_key, "", data)


def test_pseudonyms_are_the_run_s_own(tmp_path):
    """The same within a run and after a restart; another run gives others."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, again, other = RunSecret.of(tmp_path / "a"), RunSecret.of(tmp_path / "a"), RunSecret.of(tmp_path / "b")
    assert one.pseudonym("hospital") == again.pseudonym("hospital") != other.pseudonym("hospital")
    assert one.pseudonym("hospital") != one.pseudonym("hospitaL")
    assert len(one.pseudonym("x")) == 32


def draw_rounds(folder, samples):
    """A ledger whose rounds commit to these samples."""
    recipe = private_recipe(**CLIENT)
    writer = fill(folder, rounds=0, close=False, recipe=recipe)
    for round_, sample in enumerate(samples, start=1):
        drawn = Drawn(population=4, sampling_rate=0.5, commitments=(commit(folder, round_, sample),))
        body = reserve(round_, a_plan(recipe), names=()).model_copy(update={"drawn": drawn})
        writer.append(body)
        writer.append(ledger_examples.commit(writer))
    return writer


SAMPLES = [["a" * 32, "b" * 32], [], ["c" * 32]]


def test_samples_open_what_the_ledger_committed_to(tmp_path):
    draw_rounds(tmp_path, SAMPLES)
    found = check_draws(read_ledger(tmp_path), open_draws(tmp_path))
    assert [list(opening.drawn) for opening in found] == SAMPLES
    assert [opening.round for opening in found] == [1, 2, 3]


def test_the_same_sample_is_committed_to_differently_each_time(tmp_path):
    """Who sees two commitments does not see whether the samples are one."""
    assert commit(tmp_path, 1, SAMPLES[0]) != commit(tmp_path, 1, SAMPLES[0])


@pytest.mark.parametrize("change", ["drop", "member", "round", "nonce"])
def test_a_sample_that_was_changed_afterwards_is_found(tmp_path, change):
    draw_rounds(tmp_path, SAMPLES)
    path = tmp_path / "ledger.draws"
    lines = path.read_text().splitlines()
    old, new = {
        "drop": (lines[0], lines[2]),
        "member": ("a" * 32, "d" * 32),
        "round": ('"round":1', '"round":2'),
        "nonce": ('"nonce":"', '"nonce":"0'),
    }[change]
    text = path.read_text().replace(old, new, 1)
    path.write_text(text.replace('0"', '"', 1) if change == "nonce" else text)
    with pytest.raises(LedgerBroken, match=r"ledger\.draws"):
        check_draws(read_ledger(tmp_path), open_draws(tmp_path))


def test_a_draw_that_was_torn_or_never_used_does_no_harm(tmp_path):
    draw_rounds(tmp_path, SAMPLES)
    commit(tmp_path, 4, SAMPLES[0])
    with (tmp_path / "ledger.draws").open("ab") as file:
        file.write(b'{"round":')
    assert len(check_draws(read_ledger(tmp_path), open_draws(tmp_path))) == 3


def test_clients_whose_rounds_lie_too_close_are_found(tmp_path):
    """Banded noise counts on the distance: a reservation counts, whatever came of it."""
    recipe = private_recipe(**CLIENT, mechanism="banded", min_separation=2)
    for number, rounds in enumerate([["a", "b", "a"], ["a", "b", "b"]]):
        folder = tmp_path / str(number)
        folder.mkdir()
        writer = fill(folder, rounds=0, close=False, recipe=recipe)
        for round_, name in enumerate(rounds, start=1):
            drawn = Drawn(population=4, sampling_rate=1.0, asked=(name * 32,))
            writer.append(reserve(round_, a_plan(recipe), names=()).model_copy(update={"drawn": drawn}))
            writer.append(ledger_examples.abort(writer))
        if rounds == ["a", "b", "a"]:
            verify(read_ledger(folder))
        else:
            with pytest.raises(LedgerBroken, match="again within 2 rounds"):
                verify(read_ledger(folder))


def test_clients_of_a_long_period_are_held_to_it_and_to_as_many_rounds_as_were_paid_for(tmp_path):
    """Eight clients, two a round: four rounds apart, although two bands would let them come back after two."""
    federation = FederationSection(rounds=5, clients_per_round=2)
    banded = {**CLIENT, "mechanism": "banded", "min_separation": 2, "population": 8}
    recipe = private_recipe(**banded).model_copy(update={"federation": federation})
    cases = {
        "abcda": "",
        "abab": "again within 4 rounds",
        "abcda---a": "more rounds than the 2",
        "ab?": "does not say who was asked",
    }
    for names, found in cases.items():
        folder = tmp_path / f"case-{len(names)}"
        folder.mkdir()
        writer = fill(folder, rounds=0, close=False, recipe=recipe)
        for round_, name in enumerate(names, start=1):
            asked = (name * 32,) if name in "abcd" else ()
            drawn = None if name == "?" else Drawn(population=8, sampling_rate=1.0, asked=asked)
            writer.append(reserve(round_, a_plan(recipe), names=()).model_copy(update={"drawn": drawn}))
            writer.append(ledger_examples.abort(writer))
        if found:
            with pytest.raises(LedgerBroken, match=found):
                verify(read_ledger(folder))
        else:
            verify(read_ledger(folder))


def test_an_adapter_is_known_by_names_and_bytes(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"1")
    before = folder_digest(tmp_path)
    assert folder_digest(tmp_path) == before
    (tmp_path / "a" / "x").write_bytes(b"2")
    changed = folder_digest(tmp_path)
    (tmp_path / "a" / "x").rename(tmp_path / "a" / "y")
    assert len({before, changed, folder_digest(tmp_path)}) == 3


def run(*arguments) -> tuple[str, BaseException | None]:
    done = CliRunner().invoke(command, [str(argument) for argument in arguments])
    return done.output, done.exception


def test_the_command_verifies_shows_and_names_the_head(tmp_path):
    writer = fill(tmp_path)
    output, error = run(
        "verify",
        tmp_path,
        "--public-key",
        tmp_path / "ledger.pub",
        "--head",
        read_ledger(writer.path).entries[3].hash.hex(),
    )
    assert error is None
    assert "8 entries, whole and in order" in output
    assert "whether entries are missing after entry 3" in output
    assert "whose key" not in output
    assert "ε = " in output
    output, _ = run("head", tmp_path)
    assert output.strip() == read_ledger(writer.path).entries[-1].hash.hex()
    output, _ = run("show", tmp_path / "ledger.jsonl")
    for word in ("open", "reserve", "commit", "abort", "close", "2 ok", "too-few-replies"):
        assert word in output


def test_the_command_says_what_is_wrong_in_one_sentence(tmp_path):
    fill(tmp_path, close=False)
    output, error = run("verify", tmp_path)
    assert "not closed" in output
    path = tmp_path / "ledger.jsonl"
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b'"round":2', b'"round":1', 1))
    _, error = run("verify", tmp_path)
    assert isinstance(error, LedgerBroken)
    assert str(error) == f"entry 3 of {path}: its hash is not that of what it says"
    _, error = run("verify", tmp_path / "nowhere")
    assert "there is no ledger at" in str(error)
    path.write_bytes(raw)
    _, error = run("verify", path, "--public-key", path)
    assert "holds no public key" in str(error)


def test_a_public_key_survives_its_file(tmp_path):
    signer = Signer.of(tmp_path)
    (tmp_path / "copy.pub").write_bytes(public_pem(signer.public_key))
    assert read_public_key(tmp_path / "copy.pub") == signer.public_key
