"""A client process for tests: ADDRESS BUNDLE ROUND; sends micro-batches, writes a line for each output, then waits."""

import sys
import time
from pathlib import Path

import torch

from client.link import ClientKeys
from client.split import remote_bodies
from fedtune.split.base import Share, Smashed, Wants
from tests.split.bodies import WIDTH, tensor


def main(address: str, bundle: str, round_: str) -> None:
    torch.set_num_threads(1)
    keys = ClientKeys(Path(bundle))
    body = remote_bodies(address, keys)(Share("run", int(round_), keys.name))
    answers = [body.forward(n, Smashed(tensor(n, 1, 3, WIDTH)), Wants(), train=True) for n in range(3)]
    for answer in answers:
        print(tuple(answer.result().shape), flush=True)
    time.sleep(60)


if __name__ == "__main__":
    main(*sys.argv[1:])
