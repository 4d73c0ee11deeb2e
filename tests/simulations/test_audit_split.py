"""The audit of a split: it reads what is there, and never calls a guess a recovery."""

import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from rich.console import Console
from sklearn.linear_model import Ridge as Oracle

from fedtune.recipe import Recipe
from fedtune.seeds import generator
from simulations.audit.cli_split import split
from simulations.audit.split.attack import image_leak, text_leak
from simulations.audit.split.images import Decoder, fit_through, likeness
from simulations.audit.split.labels import best_naming, cluster, naming_by_chance
from simulations.audit.split.result import SplitAudit
from simulations.audit.split.ridge import STRENGTHS, Ridge
from simulations.audit.split.run import Extent, audit_split
from simulations.audit.split.seen import Observer, Seen
from simulations.audit.split.show import show, verdict
from tests.factories import SENTENCES
from tests.split.split_models import LAYERS, batch, folder, section

WORDS = sorted({word for sentence in SENTENCES for word in sentence.split()})
SMALL = Extent(private=24, public_texts=60, public_images=60, fits=False)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of random words, with a label by chance."""
    draw = np.random.default_rng(0)
    rows = [{"text": " ".join(draw.choice(WORDS, size=6)), "label": "ab"[draw.integers(2)]} for _ in range(120)]
    path = tmp_path_factory.mktemp("texts") / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 16 x 16 pixels: smooth random colours, two classes."""
    draw = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("pictures")
    for index in range(120):
        coarse = Image.fromarray(draw.integers(0, 256, (3, 3, 3), dtype=np.uint8))
        (root / "ab"[index % 2]).mkdir(exist_ok=True)
        coarse.resize((16, 16), Image.Resampling.BILINEAR).save(root / "ab"[index % 2] / f"{index}.png")
    return root


def recipe(family: str, source: Path, **more: object) -> Recipe:
    model = section(family).model_dump() | {"labels": () if family == "gpt2" else ("a", "b")}
    split = {"head_layers": 1, "prompt_tokens": 2} | more
    fields = {"model": model, "data": {"source": str(source)}, "adapter": {"kind": "full"}, "split": split}
    return Recipe.model_validate(fields)


@pytest.fixture(scope="module")
def of_texts(texts: Path) -> SplitAudit:
    return audit_split(recipe("bert", texts), SMALL)


class TestTexts:
    def test_embeddings_are_looked_up_without_a_mistake(self, of_texts):
        found = next(leak for leak in of_texts.leaks if leak.attack == "look-up")
        assert (found.head_layers, found.recovered) == (0, 1.0)
        assert found.recovers
        assert found.guess < 0.2

    def test_every_depth_is_attacked_and_recovers_here(self, of_texts):
        assert {leak.head_layers for leak in of_texts.leaks} == set(range(LAYERS))
        assert of_texts.strongest(1).recovers
        assert "not private" in verdict(of_texts)

    def test_noise_that_drowns_the_activations_leaves_a_guess(self, texts):
        noise = {"noise_multiplier": 1000.0, "delta": 1e-5, "prompt_tokens": 0}
        drowned = audit_split(recipe("bert", texts, **noise), SMALL)
        assert not any(leak.recovers for leak in drowned.leaks)
        assert "no proof" in verdict(drowned)
        console = Console(file=StringIO(), width=400)
        show(drowned, console)
        promised = drowned.as_json()["release"]
        assert (promised["sendings"], promised["mu"]) == (3, pytest.approx(0.002 * 3**0.5))
        assert promised["statement"] in console.file.getvalue()
        assert "of the one sending attacked here: ε = 0.00" in console.file.getvalue()

    def test_a_causal_lm_is_looked_up_too(self, tmp_path):
        draw = np.random.default_rng(1)
        rows = [{"prompt": " ".join(draw.choice(WORDS, 3)), "answer": str(draw.choice(WORDS))} for _ in range(60)]
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        found = audit_split(recipe("gpt2", tmp_path / "rows.jsonl"), Extent(8, 30, 30, fits=False))
        assert next(leak.recovered for leak in found.leaks if leak.attack == "look-up") == 1.0
        assert found.labels is None


class TestImages:
    @pytest.fixture(scope="class")
    def found(self, pictures: Path) -> SplitAudit:
        return audit_split(recipe("vit", pictures), SMALL)

    def test_the_decoder_recovers_images_at_every_depth(self, found):
        assert all(found.strongest(depth).recovers for depth in range(LAYERS))
        assert found.strongest(0).recovered > 0.5

    def test_random_vectors_decode_to_no_more_than_a_guess(self):
        draw = generator(0, "images")
        images = torch.rand(40, 3, 16, 16, generator=draw)
        seen = Seen(
            torch.randn(40 * 5, 16, generator=draw), torch.arange(5).repeat(40), torch.arange(40).repeat_interleave(5)
        )
        decoded = Decoder(seen.of_rows(0, 30), images[:30], 8)(seen.of_rows(30, 40))
        assert not image_leak(0, "decoder", likeness(decoded, images[30:], images[:30].mean(dim=0))).recovers

    def test_a_fit_through_the_head_comes_nearer_to_what_was_seen(self, pictures):
        observer = Observer(recipe("vit", pictures), LAYERS)
        images = torch.rand(3, 3, 16, 16, generator=generator(0, "fit"))
        head = observer.parts(1).head
        with torch.no_grad():
            hidden = head({"pixel_values": images}).hidden
        seen = Seen(hidden.flatten(0, 1), torch.arange(5).repeat(3), torch.arange(3).repeat_interleave(5))
        fitted = fit_through(observer, 1, seen, torch.zeros_like(images), steps=60)
        with torch.no_grad():
            error = (head({"pixel_values": fitted}).hidden - hidden).square().mean()
            start = (head({"pixel_values": torch.zeros_like(images)}).hidden - hidden).square().mean()
        assert error < 0.2 * start

    def test_the_mean_image_recovers_nothing_and_the_image_all(self):
        images = torch.rand(5, 3, 16, 16, generator=generator(0, "images"))
        mean = images.mean(dim=0)
        guess = likeness(mean.expand_as(images), images, mean)
        assert guess.share.abs().max() == 0
        assert not image_leak(0, "guess", guess).recovers
        same = likeness(images, images, mean)
        assert same.share.tolist() == [1.0] * 5
        torch.testing.assert_close(same.ssim, torch.ones(5))
        known = likeness(images + 0.1, images, mean)
        torch.testing.assert_close(known.psnr, torch.full((5,), 20.0), atol=1e-3, rtol=0)


class TestSeen:
    @pytest.mark.parametrize("family", ["bert", "vit", "gpt2"])
    def test_a_depth_is_what_the_head_of_that_cut_sends(self, family, texts, pictures):
        observer = Observer(recipe(family, pictures if family == "vit" else texts, prompt_tokens=0), LAYERS)
        inputs = {name: value for name, value in batch(family, rows=5).items() if name != "labels"}
        passed = observer._pass(inputs)
        for depth in range(LAYERS):
            with torch.no_grad():
                torch.testing.assert_close(passed[depth], observer.parts(depth).head(inputs).hidden)

    def test_a_guess_is_never_called_recovery(self):
        truth = torch.tensor([3, 3, 3, 4, 5, 6] * 20)
        seen = Seen(torch.zeros(120, 1), torch.arange(120) % 6, torch.arange(120) // 6)
        guess, every = torch.full_like(truth, 3), torch.ones(120, dtype=torch.bool)
        assert not text_leak(0, "guess", guess, truth, guess, seen, every).recovers
        other = truth[torch.randperm(120, generator=generator(0, "shuffle"))]
        assert not text_leak(0, "shuffled", other, truth, guess, seen, every).recovers
        assert text_leak(0, "truth", truth, truth, guess, seen, every).recovers


class TestLabels:
    def test_the_known_tail_tells_every_label_of_a_first_step(self, of_texts):
        labels = of_texts.labels
        assert labels.matched == 1.0
        assert labels.clustered == 1.0 > labels.clustered_by_chance
        assert labels.most_frequent < 0.8

    def test_no_gradient_leaves_where_nothing_is_trained_before_the_cut(self, texts):
        assert audit_split(recipe("bert", texts, prompt_tokens=0), SMALL).labels is None

    def test_noise_in_the_place_of_gradients_tells_nothing(self):
        labels = torch.arange(60) % 3
        groups = cluster(torch.randn(60, 8, generator=generator(0, "noise")), 3)
        assert best_naming(groups, labels, 3) < 0.65
        assert best_naming(labels, (labels + 1) % 3, 3) == 1.0
        assert 0.34 < naming_by_chance(labels, labels, 3) < 0.6


def test_ridge_is_the_one_of_scikit_learn_at_the_penalty_that_it_chose():
    draw = generator(0, "ridge")
    features, targets = torch.randn(40, 6, generator=draw), torch.randn(40, 2, generator=draw)
    mine = Ridge.fit(features, targets)
    held = np.arange(40) % 5 == 0
    oracles = []
    for strength in STRENGTHS:
        inner = features[~held] - features[~held].mean(dim=0)
        share = strength * float((inner.T @ inner).diagonal().mean())
        small = Oracle(alpha=share).fit(features[~held].numpy(), targets[~held].numpy())
        loss = float(np.square(small.predict(features[held].numpy()) - targets[held].numpy()).mean())
        oracles.append((loss, small.predict(features.numpy())))
    np.testing.assert_allclose(mine(features).numpy(), min(oracles, key=lambda one: one[0])[1], atol=1e-4)


def test_the_command_writes_what_it_prints(tmp_path, texts):
    model = folder("bert")
    mine = tmp_path / "mine.toml"
    mine.write_text(
        f'[model]\nname = "{model}"\nlabels = ["a", "b"]\nmax_length = 32\n[data]\nsource = "{texts}"\n'
        '[split]\nhead_layers = 1\n[adapter]\nkind = "full"\n'
    )
    out, picture = tmp_path / "leaks.json", tmp_path / "leaks.png"
    shown = CliRunner().invoke(split, [str(mine), "--quick", "--out", str(out), "--picture", str(picture)])
    assert shown.exit_code == 0, shown.output
    assert "look-up" in shown.output
    assert "not private" in shown.output
    fields = json.loads(out.read_text())
    assert fields["format"] == "fedtune split audit 1"
    assert len(fields["leaks"]) == LAYERS + 1
    assert picture.read_bytes().startswith(b"\x89PNG")
