"""Which device the local steps run on, and what it can do."""

from collections.abc import Callable
from dataclasses import dataclass

import psutil
import torch

from fedtune.errors import RunError


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """One device of this machine, as `fedtune doctor` shows it."""

    name: str
    """What a recipe calls it: `cpu`, `mps` or `cuda:0`."""
    hardware: str
    """The maker's name for it."""
    memory_bytes: int
    bf16: bool
    """Does it compute in bfloat16 at full speed?"""


def choose_device(wanted: str) -> torch.device:
    """The device that a recipe's `training.device` means here; `auto` takes cuda, then mps, then cpu.

    Raises RunError where the named device is not there.
    """
    return _auto() if wanted == "auto" else _named(torch.device(wanted))


def has_bf16(device: torch.device) -> bool:
    """Does `device` have bfloat16 arithmetic in hardware? Elsewhere it is emulated, at a tenth of the speed."""
    return _BF16[device.type](device)


def facts_of(device: torch.device) -> DeviceFacts:
    """What this machine says about one of its devices."""
    hardware, memory_bytes = _DESCRIBE[device.type](device)
    return DeviceFacts(str(device), hardware, memory_bytes, has_bf16(device))


def list_devices() -> list[torch.device]:
    """Every device of this machine, the one that `auto` takes first."""
    cuda = [torch.device("cuda", index) for index in range(_cuda_count())]
    mps = [torch.device("mps")] if torch.backends.mps.is_available() else []
    return [*cuda, *mps, torch.device("cpu")]


def _auto() -> torch.device:
    return list_devices()[0]


def _named(device: torch.device) -> torch.device:
    if require := _REQUIRE.get(device.type):
        require(device)
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def _cuda_count() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _require_cuda(device: torch.device) -> None:
    count = _cuda_count()
    if not count:
        why = "finds no CUDA GPU" if torch.version.cuda else "was built without CUDA"
        raise RunError(f"training.device is {str(device)!r}, but PyTorch here {why}; set it to 'auto' or 'cpu'.")
    if (device.index or 0) >= count:
        raise RunError(
            f"training.device is {str(device)!r}, but the last CUDA GPU here is 'cuda:{count - 1}'; set it to 'auto'."
        )


def _require_mps(device: torch.device) -> None:
    if not torch.backends.mps.is_available():
        raise RunError(f"training.device is {device.type!r}, but this is no Mac with Metal; set it to 'auto' or 'cpu'.")


def _cpu_bf16(_: torch.device) -> bool:
    return any(_cpu_facts().get(flag) is True for flag in ("avx512_bf16", "amx_bf16", "bf16"))


def _mps_bf16(_: torch.device) -> bool:
    return bool(torch.backends.mps.is_macos_or_newer(14, 0))


def _cuda_bf16(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _describe_cpu(_: torch.device) -> tuple[str, int]:
    cores = psutil.cpu_count(logical=False) or 1
    name = _cpu_facts().get("cpu_name") or "CPU"
    return f"{name}, {cores} core{'s' if cores > 1 else ''}", int(psutil.virtual_memory().total)


def _cpu_facts() -> dict[str, object]:
    # It came after torch 2.6; without it, what is not known is taken for missing.
    read: Callable[[], dict[str, object]] = getattr(torch.cpu, "get_capabilities", dict)
    return read()


def _describe_mps(_: torch.device) -> tuple[str, int]:
    return "Apple GPU", int(torch.mps.recommended_max_memory())


def _describe_cuda(device: torch.device) -> tuple[str, int]:
    properties = torch.cuda.get_device_properties(device)
    return str(properties.name), int(properties.total_memory)


_REQUIRE: dict[str, Callable[[torch.device], None]] = {"cuda": _require_cuda, "mps": _require_mps}
_BF16 = {"cpu": _cpu_bf16, "mps": _mps_bf16, "cuda": _cuda_bf16}
_DESCRIBE = {"cpu": _describe_cpu, "mps": _describe_mps, "cuda": _describe_cuda}
