"""What the local steps can run on, tried with a small product of matrices."""

from typing import TYPE_CHECKING

from fedtune.cli.checks.finding import Finding, gib

if TYPE_CHECKING:
    import torch

    from fedtune.training.device import DeviceFacts


def check_devices() -> list[Finding]:
    """PyTorch's build and every device, the one that `training.device = "auto"` takes first."""
    try:
        import torch

        from fedtune.training.device import facts_of, list_devices
    except (ImportError, OSError) as error:
        return [Finding("torch", "problem", f"cannot be imported ({error}): install it again")]
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    findings = [Finding("torch", "good", f"{torch.__version__}, built {build}", str(torch.__version__))]
    return findings + [_device(device, facts_of(device)) for device in list_devices()]


def _device(device: "torch.device", facts: "DeviceFacts") -> Finding:
    try:
        _multiply(device)
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        return Finding(facts.name, "problem", f"{facts.hardware} is there and does not compute: {first}", False)
    return Finding(facts.name, "good", f"{facts.hardware}, {gib(facts.memory_bytes)}; {_dtypes(facts)}", True)


def _multiply(device: "torch.device") -> None:
    import torch

    ones = torch.ones(64, 64, device=device)
    if float((ones @ ones).sum()) != 64.0**3:
        raise RuntimeError("64 x 64 ones multiplied by themselves come out wrong")


def _dtypes(facts: "DeviceFacts") -> str:
    bf16 = "bf16" if facts.bf16 else "no fast bf16"
    return f"fp32, {bf16}, {'nf4 base' if facts.name.startswith('cuda') else 'no nf4 base'}"
