"""The `[run]` section: the seed, and what is written where."""

from typing import Literal

from pydantic import Field

from fedtune.recipe.base import Section


class RunSection(Section):
    """Name, seed, folder and logs of a run; none of it leaves the coordinator but the seed."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """The run's name; its folder is `folder/name`."""
    folder: str = "runs"
    """Where run folders are made."""
    seed: int = Field(0, ge=0)
    """Every random number of the run comes from it."""
    tensorboard: bool = True
    """Write TensorBoard logs into the run folder."""
    mlflow: bool = False
    """Log to MLflow (`pip install 'fedtune[mlflow]'`); where to is MLFLOW_TRACKING_URI."""
    keep_checkpoints: int = Field(2, ge=1)
    """How many of the newest checkpoints stay beside the best one."""
    soup: Literal["none", "uniform", "greedy"] = "none"
    """At the end, average the kept checkpoints: all of them, or greedily those that help on the test rows (arXiv
    2203.05482). Set `keep_checkpoints` to how many there are to choose from."""
