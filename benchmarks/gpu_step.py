"""One client's local steps of a packaged model on a CUDA GPU: time, throughput and memory.

python benchmarks/gpu_step.py --model smollm2-135m --precision bf16 --steps 20
"""

import argparse
from time import perf_counter

import torch

from fedtune.data.base import Batch
from fedtune.recipe import AdapterSection, ModelSection, Recipe, TrainingSection
from fedtune.training.base import Assignment
from fedtune.training.device import choose_device, facts_of
from fedtune.training.loop import train_client
from fedtune.training.resident import Resident


class TokenRows:
    """Random token rows of one length, learned from the second half on."""

    def __init__(self, rows: int, tokens: int, vocabulary: int) -> None:
        self._ids = torch.randint(0, vocabulary, (rows, tokens), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self._ids)

    def batch(self, indices: list[int]) -> Batch:
        """The rows at `indices`."""
        ids = self._ids[indices]
        labels = ids.clone()
        labels[:, : ids.shape[1] // 2] = -100
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m", help="a causal language model of the catalogue, or a folder")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--quantization", choices=["none", "nf4"], default="none")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    parser.add_argument("--device", default="cuda", help="cpu shows that the script works, not what a GPU does")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--steps", type=int, default=20)
    return parser.parse_args()


def measure(asked: argparse.Namespace) -> str:
    """Train twice, the first time to warm up; one line of figures."""
    chosen = ("batch_size", "steps", "precision", "device", "compile")
    training = TrainingSection(
        **{name: getattr(asked, name) for name in chosen}, gradient_checkpointing=asked.checkpointing
    )
    model = ModelSection(name=asked.model, task="causal-lm", quantization=asked.quantization)
    home = Resident.build(Recipe(model=model, adapter=AdapterSection(rank=64), training=training))
    rows = TokenRows(asked.batch_size * asked.steps, asked.tokens, home.loaded.model.config.vocab_size)
    share = Assignment("benchmark", 1, home.initial, rows, seed=0)
    train_client(home, share)
    started = perf_counter()
    result = train_client(home, share)
    seconds = (perf_counter() - started) / asked.steps
    peak = torch.cuda.max_memory_allocated() / 2**30 if home.device.type == "cuda" else float("nan")
    return (
        f"{asked.model} on {facts_of(home.device).hardware}: {seconds * 1e3:.1f} ms a step, "
        f"{asked.batch_size * asked.tokens / seconds:,.0f} tokens/s, peak {peak:.2f} GiB, "
        f"loss {result.metrics['loss']:.3f}, bf16 {home.bf16}"
    )


if __name__ == "__main__":
    asked = parse()
    if asked.device.startswith("cuda") and not torch.cuda.is_available():
        print("No CUDA GPU here, so nothing was measured; run this on a machine with one, or with --device cpu.")
    else:
        choose_device(asked.device)
        print(measure(asked))
