"""What the tests of compression share: updates of many shapes, pipelines by name, and both halves in one call."""

import numpy as np
import torch
from hypothesis import strategies as st

from fedtune.compression import make_pipeline
from fedtune.recipe.compression import CompressionSection
from fedtune.state import shapes_of

SHAPES = st.lists(
    st.one_of(st.just(()), st.tuples(st.integers(0, 40)), st.tuples(st.integers(0, 9), st.integers(1, 12))),
    min_size=1,
    max_size=4,
)


def settings(*upload, **keys):
    """A section of these stages."""
    return CompressionSection(upload=upload, **keys)


def pipeline_of(*upload, **keys):
    """The pipeline of these stages."""
    return make_pipeline(settings(*upload, **keys))


def there_and_back(pipeline, tensors, seed=0):
    """What is sent, and what it is decoded to."""
    sent = pipeline.encode(tensors, seed=seed)
    return sent, pipeline.decode(sent, shapes_of(tensors), seed=seed)


def normal(shapes, seed=0, scale=1.0):
    """Normally distributed tensors; names are such that their order is not the one of their making."""
    draw = torch.Generator().manual_seed(seed)
    return {f"layer.{(7 * i) % 11}.w{i}": torch.randn(s, generator=draw) * scale for i, s in enumerate(shapes)}


def flat(tensors):
    """All numbers in the order of sorted names, float64."""
    return np.concatenate([np.zeros(0), *(tensors[name].double().numpy().reshape(-1) for name in sorted(tensors))])


def norm(tensors):
    """The Euclidean norm of the update, float64."""
    return float(np.linalg.norm(flat(tensors)))


updates = st.builds(normal, SHAPES, st.integers(0, 10_000), st.sampled_from([1e-6, 1.0, 100.0]))
