"""One case of the comparison of simulators, and the recipe that every side reads it from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedtune.recipe import Recipe

LAYERS = {"minilm": 6, "smollm2-135m": 30}
PATHS = {"minilm": "encoder.layer.{}.attention.self.{}", "smollm2-135m": "layers.{}.self_attn.{}"}
NAMES = {"minilm": ("query", "value"), "smollm2-135m": ("q_proj", "v_proj")}
DATA = {"minilm": "movie-reviews", "smollm2-135m": "trivia"}
DEPTHS = ("all", "third", "last")


@dataclass(frozen=True, slots=True)
class Case:
    """How many clients train what, on how much; every client holds `rows` · `steps` rows and is asked every round."""

    model: str = "minilm"
    clients: int = 32
    rows: int = 4
    """Rows of a local step."""
    tokens: int = 64
    """The longest text; real ones are shorter."""
    adapter: str = "lora"
    depth: str = "all"
    private: bool = False
    """DP-SGD with noise in each local step."""
    steps: int = 2
    rounds: int = 3

    def __str__(self) -> str:
        what = f"{self.model}, {self.adapter}, {self.depth}{', private' if self.private else ''}"
        return f"{what}: {self.clients} clients x {self.rows} rows <= {self.tokens} tokens"

    @property
    def lowest(self) -> int:
        """The lowest layer that carries an adapter."""
        layers = LAYERS[self.model]
        return {"all": 0, "third": layers - layers // 3, "last": layers - 1}[self.depth]

    def client_steps(self, rounds: int) -> int:
        """Local steps of all clients in so many rounds."""
        return self.clients * self.steps * rounds

    def recipe(self, folder: Path) -> Recipe:
        """FedAvg of plain adapters, without evaluation and dropout: what every simulator can do."""
        layers = range(self.lowest, LAYERS[self.model])
        targets = [PATHS[self.model].format(layer, name) for layer in layers for name in NAMES[self.model]]
        adapter: dict[str, Any] = {
            "kind": self.adapter,
            "targets": tuple(targets),
            "rank": 8 if self.adapter == "lora" else 32,
        }
        return Recipe.model_validate(
            {
                "model": {
                    "name": self.model,
                    "task": "causal-lm" if self.model.startswith("smollm") else "sequence-classification",
                    "labels": () if self.model.startswith("smollm") else ("negative", "positive"),
                    "max_length": self.tokens,
                    "dropout": 0.0,
                },
                "data": {
                    "source": DATA[self.model],
                    "max_rows": self.clients * self.rows * self.steps,
                    "test_fraction": 0.0,
                    "partition": {"clients": self.clients},
                },
                "adapter": adapter | ({"init": "kaiming"} if self.adapter == "lora" else {}),
                "federation": {"rounds": self.rounds, "evaluate_every": 0},
                "training": {"batch_size": self.rows, "lr": 1e-3, "device": "cpu", "max_grad_norm": None}
                | ({"steps": self.steps} if self.private else {}),
                "run": {"folder": str(folder), "name": "run", "tensorboard": False},
            }
            | (self._privacy() if self.private else {})
        )

    def _privacy(self) -> dict[str, Any]:
        """Each row is in a step's batch by chance, `rows` of them in the mean."""
        drawn = {"sampling_rate": 1 / self.steps, "noise_multiplier": 1.0, "clip": 1.0}
        return {"privacy": {"unit": "example", "delta": 1e-5} | drawn, "aggregation": {"weights": "uniform"}}
