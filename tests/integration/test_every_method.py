"""Every method from end to end: what it sends is its formula, its product error is what it declares, it exports."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from fedtune.aggregation import SCHEMES
from fedtune.aggregation.scheme import Layout
from fedtune.recipe import Recipe
from fedtune.runs.export import export
from fedtune.runs.folder import RunFolder
from fedtune.runs.world import world_of
from fedtune.state import parameter_count
from fedtune.training.resident import Resident
from simulations.simulate import simulate
from tests.federation import federate, folder_of, recipe_for
from tests.worlds import write_rows

METHODS: dict[str, tuple[str, ...]] = {
    "fedit": ('method="fedit"',),
    "ffa-lora": ('method="ffa-lora"',),
    "rolora": ('method="rolora"',),
    "fedex-lora": ('method="fedex-lora"',),
    "fedex-lora dense": ('method="fedex-lora"', 'aggregation.residual="dense"'),
    "fedex-lora truncated": ('method="fedex-lora"', 'aggregation.residual="truncated"', "aggregation.residual_rank=2"),
    "flora": ('method="flora"',),
    "flexlora": ('method="flexlora"',),
    "hetlora": ('method="hetlora"',),
    "lora-fair": ('method="lora-fair"',),
    "lora-fair by sgd": ('method="lora-fair"', 'aggregation.solver="cosine-sgd"', "aggregation.solver_steps=20"),
    "florist": ('method="florist"',),
    "fedrot-lora": ('method="fedrot-lora"',),
    "fedsvd": ('method="fedsvd"',),
    "fed-sb": ('method="fed-sb"',),
    "ravan": ('method="ravan"', "adapter.heads=3"),
    "ia3": ('adapter.kind="peft"', 'adapter.peft_type="ia3"'),
    "fedadam": ('method="fed-sb"', 'aggregation.server_optimizer="adam"', "aggregation.server_lr=0.01"),
    "scaffold": ('method="fed-sb"', "training.scaffold=true"),
    "fedprox": ('method="fed-sb"', "training.proximal=0.1"),
    "median": ('method="fed-sb"', 'aggregation.rule="median"'),
    "ranks of square": ('method="fed-sb"', 'federation.ranks=["*1=2", "*2=3"]'),
    "ranks of ravan": ('method="ravan"', "adapter.heads=3", 'federation.ranks=["*1=1", "*2=2"]'),
    "ranks of flora": ('method="flora"', 'federation.ranks=["*1=2", "*2=3"]'),
    "ranks of flexlora": ('method="flexlora"', 'federation.ranks=["*1=2", "*2=3"]'),
    "ranks of hetlora": ('method="hetlora"', 'federation.ranks=["*1=2", "*2=3"]', "aggregation.prune=0.5"),
    "ranks of florist": ('method="florist"', 'federation.ranks=["*1=2", "*2=3"]'),
}
"""What a recipe says for each; together they try every scheme, adapter, correction and rule."""
UNMERGED = {
    "fedsa-lora": ('method="fedsa-lora"', "data.holdout_fraction=0.25"),
    "prompt": ('adapter.kind="prompt"', "adapter.prompt_tokens=3", 'adapter.targets="all-linear"'),
}
"""Whose result is no whole model: adapters of the clients' own, and vectors that no weight takes up."""
TOKENS = {"input_ids": torch.tensor([[2, 7, 9, 5, 3], [2, 11, 6, 4, 3]]), "attention_mask": torch.ones(2, 5).long()}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", 60)


def layout_of(recipe: Recipe, client: str, ranks: list[int]) -> Layout:
    """What the formulas of a run's traffic depend on."""
    home = Resident.build(recipe)
    head = parameter_count(t for name, t in home.initial.items() if name.startswith("head."))
    slots = home.attached.slots
    return Layout(
        form=recipe.adapter.form,
        modules=list(home.attached.target_shapes().values()),
        rank=recipe.adapter.rank,
        own_rank=rank_in(recipe, client, slots),
        ranks=ranks or [slots] * 4,
        head=head,
        heads=recipe.adapter.heads,
        residual=recipe.aggregation.residual,
        residual_rank=recipe.aggregation.residual_rank,
        state_numbers=parameter_count(home.initial.values()) - head,
    )


def rank_in(recipe: Recipe, client: str, slots: int) -> int:
    return next((int(rule[-1]) for rule in recipe.federation.ranks if client.endswith(rule[1])), slots)


@pytest.mark.parametrize("name", [*METHODS, *UNMERGED])
def test_a_method_sends_what_its_formula_says(name: str, tiny_bert_folder: Path, rows: Path, tmp_path: Path) -> None:
    lines = {**METHODS, **UNMERGED}[name]
    recipe = recipe_for(tiny_bert_folder, rows, tmp_path, *lines, "federation.evaluate_every=0", "aggregation.prune=0")
    place = federate(recipe)
    scheme = SCHEMES[recipe.aggregation.scheme]
    slots = Resident.build(recipe).attached.slots
    ranks = [rank_in(recipe, client, slots) for client in sorted(place.up[1])]
    record = RunFolder.open(folder_of(recipe)).rounds()[3]
    assert [c.outcome for c in record.clients] == ["ok"] * 4
    for client in record.clients:
        layout = layout_of(recipe, client.client, ranks)
        traffic = scheme.traffic(layout)
        control = layout.head + len(layout.modules) * recipe.adapter.rank**2 if recipe.training.scaffold else 0
        assert place.up[3][client.client] == traffic.up + control
        assert place.down[3][client.client] == traffic.down + control
        tensors = 4 * len(layout.modules) + 4
        assert 0 < client.bytes_up - 4 * (traffic.up + control) < 600 + 130 * tensors
        assert 0 < client.bytes_down - 4 * (traffic.down + control) < 2200 + 130 * tensors


@pytest.mark.parametrize("name", METHODS)
def test_a_method_resumes_to_the_bit_and_exports_what_it_learned(
    name: str, tiny_bert_folder: Path, rows: Path, tmp_path: Path
) -> None:
    def recipe(run: str, rounds: int) -> Recipe:
        lines = (*METHODS[name], f'run.name="{run}"', f"federation.rounds={rounds}", "aggregation.diagnose=true")
        return recipe_for(tiny_bert_folder, rows, tmp_path, *lines)

    whole = RunFolder.open(simulate(recipe("whole", 3)))
    simulate(recipe("parts", 1))
    parts = RunFolder.open(simulate(recipe("parts", 3), resume=True, workers=2))
    assert [r.state_digest for r in parts.rounds()] == [r.state_digest for r in whole.rounds()]
    assert whole.rounds()[0].state_digest != whole.rounds()[-1].state_digest
    assert_product_errors(whole)
    assert_exports(whole, tmp_path)


def assert_product_errors(run: RunFolder) -> None:
    """At rounding where the scheme says exact, and not where it does not."""
    recipe = run.recipe
    errors = [record.product_error for record in run.rounds()[1:]]
    if recipe.adapter.kind == "peft":
        assert errors == [None] * 3
        return
    plain = recipe.aggregation.rule == "mean" and recipe.aggregation.server_optimizer == "none"
    truncated = recipe.aggregation.residual == "truncated"
    alike = not recipe.federation.ranks or recipe.aggregation.scheme == "flora"
    exact = recipe.adapter.form in SCHEMES[recipe.aggregation.scheme].exact_for
    if exact and plain and alike and not truncated:
        assert max(errors) <= 1e-6
    else:
        assert max(errors) > 1e-3


def assert_exports(run: RunFolder, folder: Path) -> None:
    """PEFT's own loading and the merged model compute what the server's model computes."""
    checkpoint = run.checkpoints.load("latest")
    home = Resident.build(run.recipe)
    if checkpoint.shared:
        home.attached.load_shared(checkpoint.shared)
    world = world_of(checkpoint)
    home.attached.shift_to(world.shift)
    home.attached.load(world.state)
    expected = logits(home.attached.model)
    base = AutoModelForSequenceClassification.from_pretrained(run.recipe.model.name, num_labels=2)
    adapter = export(run, folder / "adapter", checkpoint="latest").path
    assert (logits(PeftModel.from_pretrained(base, str(adapter))) - expected).abs().max() <= 1e-5
    merged = export(run, folder / "merged", checkpoint="latest", format_="merged").path
    assert (logits(AutoModelForSequenceClassification.from_pretrained(merged)) - expected).abs().max() <= 1e-5


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**TOKENS).logits
