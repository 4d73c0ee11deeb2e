"""The Python packages that fedtune declares, and whether what is installed suits it."""

import importlib.metadata
from collections.abc import Iterator

from packaging.requirements import Requirement

from fedtune.cli.checks.finding import Finding

EXTRAS = {
    "convert": "reads the packaged SmolLM2 (GGUF) and DINOv2 (ONNX)",
    "quantize": "4-bit base models, on a CUDA GPU",
    "mlflow": "logs runs to MLflow",
    "ray": "fedtune simulate --ray, and Flower's own simulator",
}
"""What each extra is for; those that are not here are for developing fedtune."""


def check_packages() -> list[Finding]:
    """Every package that fedtune cannot do without."""
    return [_finding(wanted, "") for wanted in _requirements("")]


def check_extras() -> list[Finding]:
    """The packages of each extra."""
    return [_finding(wanted, extra) for extra in EXTRAS for wanted in _requirements(extra)]


def _requirements(extra: str) -> Iterator[Requirement]:
    """The requirements that `extra` adds; those of fedtune itself for an empty one."""
    for line in importlib.metadata.requires("fedtune") or ():
        wanted = Requirement(line)
        applies = wanted.marker is None or wanted.marker.evaluate({"extra": extra})
        if applies and bool(extra) == ("extra" in str(wanted.marker or "")):
            yield wanted


def _finding(wanted: Requirement, extra: str) -> Finding:
    # Flower's `simulation` extra is Flower and Ray: Ray is what may be absent.
    name = "ray" if "simulation" in wanted.extras else wanted.name
    purpose = f"; {EXTRAS[extra]}" if extra else ""
    install = f"pip install 'fedtune[{extra}]'" if extra else f"pip install '{wanted}'"
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "absent" if extra else "problem", f"not installed: {install}{purpose}")
    if name == wanted.name and not wanted.specifier.contains(found, prereleases=True):
        return Finding(
            name, "problem", f"{found} does not suit, {wanted.specifier} is needed: {install}{purpose}", found
        )
    return Finding(name, "good", f"{found}{purpose}", found)
