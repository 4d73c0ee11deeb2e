"""The bare loop that a researcher writes: one PEFT model, each client's tensors copied in, torch's AdamW, a mean."""

from pathlib import Path

import torch

from benchmarks.simulators.case import Case
from benchmarks.simulators.measure import Measured, mark, peak_mb, plain
from fedtune.data.base import Batch, Rows
from fedtune.recipe import Recipe
from fedtune.seeds import derive_seed
from fedtune.training.order import local_steps
from fedtune.training.resident import Resident, resident
from simulations.population import Population

State = dict[str, torch.Tensor]


class Bench:
    """The model with its adapter and every client's rows, as all of the other simulators' sides use them."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.home: Resident = resident(recipe)
        self.model = self.home.attached.model.train()
        self.trained = self.home.attached.parameters()
        self.population = Population.of(recipe)
        self.names = self.population.names

    def start(self) -> State:
        """The adapter that round 1 begins with."""
        return {name: tensor.clone() for name, tensor in self.home.initial.items()}

    def rows(self, client: str) -> Rows:
        """What a client learns from."""
        return self.population.data(client).train

    def batches(self, client: str, round_: int) -> list[Batch]:
        """A client's local steps, padded to the longest row of each, in the order that all sides take."""
        rows = self.rows(client)
        seed = derive_seed(self.recipe.run.seed, "train", round_=round_, client=client)
        return [rows.batch(indices) for step in local_steps(len(rows), self.recipe.training, seed) for indices in step]

    def train(self, state: State, batches: list[Batch]) -> State:
        """One client's round."""
        self.load(state)
        optimizer = torch.optim.AdamW(self.trained.values(), lr=self.recipe.training.lr, weight_decay=0.0)
        for batch in batches:
            optimizer.zero_grad()
            self.model(**batch, **self.home.extra).loss.backward()
            optimizer.step()
        return {name: parameter.detach().clone() for name, parameter in self.trained.items()}

    def load(self, state: State) -> None:
        """Copy a state into the model."""
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(state[name])


def run(case: Case, folder: Path) -> Measured:
    """FedAvg, client after client."""
    bench = Bench(case.recipe(folder))
    state, marks = bench.start(), [mark()]
    for round_ in range(1, case.rounds + 1):
        total = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
        weight = 0
        for client in bench.names:
            trained = bench.train(state, bench.batches(client, round_))
            rows = len(bench.rows(client))
            weight += rows
            for name, tensor in trained.items():
                total[name] += rows * tensor
        state = {name: tensor / weight for name, tensor in total.items()}
        marks.append(mark())
    return Measured(tuple(marks), plain(state), peak_mb())
