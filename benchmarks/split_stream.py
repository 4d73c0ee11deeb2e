"""What splitting a model costs on loopback under TLS, and what batching gains: `python benchmarks/split_stream.py`.

(a) One client trains head and tail of a random BERT through a coordinator's body in another process, beside the same
parts in one process and one autograd graph, which is the model trained whole. CPU seconds of both sides are added, so
that the figure does not depend on what else a machine does. (b) Four clients' micro-batches, served in passes as the
coordinator puts them together and each in turn; by CPU seconds on a CPU, by the clock on a GPU.
"""

import argparse
import multiprocessing
import resource
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import BertConfig, BertForSequenceClassification

from client.link import ClientKeys
from client.split import remote_bodies
from fedtune.recipe import ModelSection
from fedtune.recipe.split import SplitSection
from fedtune.split.asks import BackwardAsk, Coding, ForwardAsk, Packed
from fedtune.split.base import Share, Smashed, Wants
from fedtune.split.batching import Batching
from fedtune.split.cut import Cut
from fedtune.split.load import load_body, load_client_part
from fedtune.split.parts import ClientParts
from fedtune.split.serve import BodyServer
from protos import flower
from protos.names import node_id
from server.keys import KeyFolder, ServerKeys
from server.link import CoordinatorLimits, LinkGrid
from server.split import SplitService

SPLIT = SplitSection(head_layers=1, tail_layers=1, train_head=True)
ACCUMULATE, CLIENTS, IN_FLIGHT, SECONDS = 4, 4, 2, 0.5


@dataclass(frozen=True, slots=True)
class Size:
    """A model and its micro-batches."""

    layers: int
    width: int
    rows: int
    tokens: int

    def __str__(self) -> str:
        return f"{self.layers} layers of {self.width}, micro-batches of {self.rows} x {self.tokens} tokens"


SIZE = Size(8, 384, 4, 64)
PATIENT = CoordinatorLimits(away_s=3600)


def make_model(size: Size, folder: Path) -> ModelSection:
    """Random weights on the disk, as split models are read."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=1000,
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.width // 64,
        intermediate_size=4 * size.width,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    _save_tokenizer(folder)
    return ModelSection(name=str(folder), task="sequence-classification", labels=("a", "b"))


def _save_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    special = {"unk_token": "[UNK]", "pad_token": "[PAD]"}
    words = Tokenizer(WordLevel({"[UNK]": 0, "[PAD]": 1}, special["unk_token"]))
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)


class Client:
    """Head and tail, and the rows that they learn from."""

    def __init__(self, model: ModelSection, size: Size) -> None:
        loaded = load_client_part(model, SPLIT, device=torch.device("cpu"), seed=1)
        self.parts = ClientParts.of(loaded.model, Cut(1, size.layers - 2, 1), model.task)
        loaded.model.requires_grad_(False)
        base: Any = loaded.model
        self.trained = [p for module in (base.bert.encoder, base.classifier) for p in module.parameters()]
        for parameter in self.trained:
            parameter.requires_grad_(True)
        self.optimizer = torch.optim.SGD(self.trained, lr=1e-3)
        draw = torch.Generator().manual_seed(2)
        ids = torch.randint(2, 1000, (ACCUMULATE, size.rows, size.tokens), generator=draw)
        self.batches = [
            {"input_ids": one, "attention_mask": torch.ones_like(one), "labels": torch.arange(size.rows) % 2}
            for one in ids
        ]

    def whole_step(self, body: torch.nn.Module) -> float:
        """One optimiser step in one process and one graph."""
        total = 0.0
        for batch in self.batches:
            made = self.parts.head(batch)
            loss = self.parts.tail(Smashed(body(made.hidden, made.mask), made.mask), batch).loss / ACCUMULATE
            loss.backward()
            total += float(loss.detach())
        self._update()
        return total

    def split_step(self, body: Any, first: int) -> float:
        """The same with the body elsewhere, every micro-batch on its way at once."""
        made = [self.parts.head(batch) for batch in self.batches]
        sent = [
            body.forward(first + i, Smashed(one.hidden.detach(), one.mask), Wants(), train=True)
            for i, one in enumerate(made)
        ]
        back, total = [], 0.0
        for i, (batch, one, answer) in enumerate(zip(self.batches, made, sent, strict=True)):
            hidden = answer.result().requires_grad_()
            loss = self.parts.tail(Smashed(hidden, one.mask), batch).loss / ACCUMULATE
            loss.backward()
            total += float(loss.detach())
            back.append(body.backward(first + i, hidden.grad))
        for one, answer in zip(made, back, strict=True):
            one.hidden.backward(answer.result())
        self._update()
        return total

    def _update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()


def serve(model: ModelSection, folder: Path, port: Any, done: Any) -> None:
    """The coordinator's process."""
    torch.set_num_threads(1)
    body = load_body(model, SPLIT, device=torch.device("cpu"))
    service = SplitService(BodyServer(body, body.width), body.fingerprint)
    with LinkGrid("127.0.0.1:0", ServerKeys(folder), limits=PATIENT, beside=[service]) as grid:
        grid.push_messages([flower.make_message(_nothing(), node_id("a"), "train", group_id="1")])
        port.send(grid.address.port)
        done.wait()


def _nothing() -> Any:
    from flwr.app import RecordDict

    return RecordDict({})


@contextmanager
def coordinator(model: ModelSection, keys: KeyFolder) -> Iterator[tuple[int, psutil.Process]]:
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    done = spawn.Event()
    process = spawn.Process(target=serve, args=(model, keys.folder, there, done), daemon=True)
    process.start()
    try:
        yield here.recv(), psutil.Process(process.pid)
    finally:
        done.set()
        process.join(20)


def cpu_s(other: psutil.Process | None = None) -> float:
    """CPU seconds of this process, and of another one."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    mine = used.ru_utime + used.ru_stime
    return mine + (sum(other.cpu_times()[:2]) if other else 0.0)


def one_client(size: Size, steps: int, folder: Path) -> None:
    keys = KeyFolder(folder / "keys")
    keys.init([], ["a"])
    model = make_model(size, folder / "model")
    body = load_body(model, SPLIT, device=torch.device("cpu"))
    whole, split = Client(model, size), Client(model, size)
    with coordinator(model, keys) as (port, process):
        remote = remote_bodies(f"127.0.0.1:{port}", ClientKeys(keys.bundle("a")))(Share("run", 1, "a"))
        whole.whole_step(body), split.split_step(remote, 0)
        used = {"whole": 0.0, "split": 0.0}
        for step in range(1, steps + 1):  # in turn, so that a machine's moods meet both
            before = cpu_s()
            one = whole.whole_step(body)
            used["whole"] += cpu_s() - before
            before = cpu_s(process)
            two = split.split_step(remote, step * ACCUMULATE)
            used["split"] += cpu_s(process) - before
            assert one == two, (one, two)
        remote.close()
    each = {name: seconds / steps for name, seconds in used.items()}
    print(f"one client, {size}, fp32, mTLS")
    print(
        f"    whole {each['whole']:.3f} CPU s a step, split {each['split']:.3f} (both sides); losses equal, bit for bit"
    )
    print(f"    split reaches {each['whole'] / each['split']:.0%} of the steps/s (bar 80 %)", flush=True)


# -- four clients


class Asker:
    """A client that does nothing but ask: micro-batches there and back, some in flight."""

    def __init__(self, server: BodyServer, name: str, shape: tuple[int, int, int]) -> None:
        self._heard = threading.Event()
        self._server = server
        self._session, _ = server.open(name, "s", self._heard.set)
        self._packed = Packed(shape, Coding().pack(torch.randn(shape)).data)

    def run(self, count: int) -> None:
        """Until so many have come back."""
        sent = finished = 0
        while finished < count:
            while sent < min(count, finished + IN_FLIGHT):
                everything = (0, self._packed.shape[1])
                self._server.ask(self._session, ForwardAsk(sent, self._packed, b"", everything, everything))
                sent += 1
            self._heard.wait()
            self._heard.clear()
            while (answer := self._server.next_answer(self._session)) is not None:
                if answer.way == "forward":
                    self._server.ask(self._session, BackwardAsk(answer.number, answer.tensor))
                else:
                    self._server.acknowledge(self._session, answer.number, "backward")
                    finished += 1
        self._server.close(self._session)


def rate(body: torch.nn.Module, width: int, device: torch.device, batching: Batching, rows: int, tokens: int) -> float:
    """Micro-batches there and back a second, of the clock on a GPU and of the CPU elsewhere."""
    server = BodyServer(body, width, device=device, batching=batching)
    server.start()
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    with ThreadPoolExecutor(CLIENTS) as pool:

        def share(count: int) -> None:
            askers = [Asker(server, f"c{i}", (rows, tokens, width)) for i in range(CLIENTS)]
            list(pool.map(Asker.run, askers, [count] * CLIENTS))

        share(2)
        begin, done, count = clock(), 0, 4
        while clock() - begin < SECONDS:
            share(count)
            done += CLIENTS * count
            count = min(64, 2 * count)
        seconds = clock() - begin
    server.stop()
    return done / seconds


def four_clients(size: Size, folder: Path) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = make_model(size, folder / "model")
    body = load_body(model, SPLIT, device=device)
    what = "by the clock" if device.type == "cuda" else "by CPU seconds"
    print(f"four clients, {size.layers - 2} layers of {size.width} on {device.type}, {what}")
    for rows, tokens in ((1, 4), (1, 16), (1, 64), (4, 64), (8, 128)):
        turns, together = Batching(0), Batching.on(device) if device.type == "cuda" else Batching(max_tokens=64)
        pairs = [
            (
                rate(body, size.width, device, turns, rows, tokens),
                rate(body, size.width, device, together, rows, tokens),
            )
            for _ in range(2)
        ]
        alone, shared = (max(values) for values in zip(*pairs, strict=True))
        print(
            f"    {rows:2} x {tokens:3} tokens: in turn {alone:8.1f} /s, as put together {shared:8.1f} /s, "
            f"ratio {shared / alone:.2f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        one_client(SIZE, options.steps, Path(temporary))
    with tempfile.TemporaryDirectory() as temporary:
        four_clients(SIZE, Path(temporary))


if __name__ == "__main__":
    main()
