"""Devices: what `auto` takes, and one sentence where a named one is not there."""

import pytest
import torch

from fedtune.errors import RunError
from fedtune.training.device import choose_device, facts_of, has_bf16, list_devices

CUDA = torch.cuda.is_available()


def test_auto_takes_the_first_device_there_is_and_the_cpu_is_always_one() -> None:
    devices = list_devices()
    assert choose_device("auto") == devices[0]
    assert devices[-1] == torch.device("cpu") == choose_device("cpu")


@pytest.mark.skipif(CUDA, reason="this machine has a CUDA GPU")
@pytest.mark.parametrize("wanted", ["cuda", "cuda:1"])
def test_cuda_where_there_is_none_is_one_sentence_that_says_what_to_set(wanted: str) -> None:
    with pytest.raises(RunError, match=rf"training.device is '{wanted}', .*CUDA.*; set it to 'auto' or 'cpu'\.$"):
        choose_device(wanted)


@pytest.mark.skipif(not CUDA, reason="needs a CUDA GPU")
def test_a_gpu_number_too_high_names_the_last_one() -> None:
    with pytest.raises(RunError, match=f"cuda:{torch.cuda.device_count() - 1}"):
        choose_device("cuda:99")


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has Metal")
def test_mps_where_there_is_none_is_one_sentence() -> None:
    with pytest.raises(RunError, match="no Mac with Metal; set it to 'auto'"):
        choose_device("mps")


def test_facts_name_every_device_with_its_memory() -> None:
    for device in list_devices():
        facts = facts_of(device)
        assert facts.name == str(device)
        assert facts.hardware
        assert facts.memory_bytes > 2**20
        assert facts.bf16 is has_bf16(device)
