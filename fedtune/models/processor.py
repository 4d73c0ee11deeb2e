"""What turns a model's inputs into tensors: the tokenizer of a text model, the transform of an image model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedtune.errors import ModelError
from fedtune.models.image import transform_for
from fedtune.models.task import TASKS
from fedtune.recipe import ModelSection

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
)


def load_processor(section: ModelSection, folder: Path, model: Any) -> Any:
    """The tokenizer (pads on the right, has a pad token) or ImageTransform of the model in `folder`; ModelError."""
    return READERS[TASKS[section.task].reads](section, folder, model)


def _load_transform(section: ModelSection, folder: Path, _model: Any) -> Any:
    return transform_for(folder, section.image_size)


def _load_tokenizer(section: ModelSection, folder: Path, model: Any) -> Any:
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ModelError(f"{folder} holds no tokenizer: save it there with tokenizer.save_pretrained.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    # The tokenizers library raises bare Exceptions for damaged files.
    except Exception as error:
        raise ModelError(f"The tokenizer in {folder} cannot be read: its files are damaged or incomplete.") from error
    tokenizer.padding_side = "right"
    _ensure_pad_token(section, tokenizer, model)
    return tokenizer


def _ensure_pad_token(section: ModelSection, tokenizer: Any, model: Any) -> None:
    if tokenizer.pad_token_id is None:
        # Padding is masked and follows the text, so any token that exists will do; a new one would have no embedding.
        stand_in = tokenizer.eos_token or tokenizer.unk_token
        if stand_in is None:
            raise ModelError(
                f"The tokenizer of {section.name} has no pad, end or unknown token: add a pad token to it."
            )
        tokenizer.pad_token = stand_in
    model.config.pad_token_id = tokenizer.pad_token_id


READERS: dict[str, Callable[[ModelSection, Path, Any], Any]] = {"text": _load_tokenizer, "images": _load_transform}
