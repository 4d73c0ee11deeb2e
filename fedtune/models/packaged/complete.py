"""Proves a converted folder: every weight of the model comes from the file, every weight of the file is used."""

from pathlib import Path
from typing import Any

from fedtune.errors import ModelError
from fedtune.models.quiet import quiet_transformers


def load_complete(model_class: Any, folder: Path) -> Any:
    """Load `folder` as `model_class`, in fp32.

    Raises ModelError where a key is missing, unexpected or of another shape: transformers would fill it with random
    numbers and only warn.
    """
    with quiet_transformers():
        model, info = model_class.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    wrong = {kind: sorted(map(str, keys)) for kind, keys in info.items() if keys}
    if wrong:
        kind, keys = next(iter(wrong.items()))
        raise ModelError(
            f"The conversion to {folder} is incomplete ({kind.replace('_', ' ')}: {keys[0]} and "
            f"{len(keys) - 1} more); install another version of transformers and run `fedtune fetch` again."
        )
    return model
