"""Prompt tuning (arXiv 2104.08691) and shallow visual prompt tuning (2203.12119) of a whole model.

What is trained is what stands among the tokens, so the weighted mean of prompts is one as it is.
"""

from pathlib import Path
from typing import Any

from torch import nn

from fedtune.adapters.head import head_parameters, head_state
from fedtune.adapters.layers import refuse_second
from fedtune.adapters.library_files import write_tensors
from fedtune.adapters.prompt_place import place_prompt
from fedtune.adapters.replaced import Replaced, write_replaced
from fedtune.adapters.saved import TASK_TYPES
from fedtune.adapters.unfactored import Unfactored
from fedtune.errors import AdapterError
from fedtune.models.base import LoadedModel
from fedtune.recipe import AdapterSection
from fedtune.state import copy_state

PROMPT = "prompt.input"
"""The canonical name of the vectors."""
PEFT_KEY = "prompt_embeddings"
"""What PEFT calls them."""


class Prompt(Unfactored):
    """`prompt.input` (P, D) among every row's tokens, and the task head beside it.

    Guarantees: no weight of the base model changes; `model` is called as the base model is, with the whole row, and
    its outputs have the same shapes.
    """

    kind = "prompt"

    def __init__(self, loaded: LoadedModel, section: AdapterSection, task: str) -> None:
        refuse_second(loaded.model)
        self.model = loaded.model
        self._loaded, self._task = loaded, task
        self._layer = place_prompt(loaded, section, task)
        loaded.model.requires_grad_(False)
        trained = {PROMPT: self._layer.input} | (head_parameters(loaded) if section.head else {})
        self._parameters = {name: trained[name] for name in sorted(trained)}
        for parameter in self._parameters.values():
            parameter.requires_grad_(True)

    def save(self, folder: Path, base: str) -> None:
        """Write a folder of PEFT's prompt tuning: `PeftModel.from_pretrained` gives this model's outputs.

        The task head goes along, trained or not: a new one is random. PEFT has no prompts for images: theirs are files
        that `fedtune.split.exported.load_exported` reads. Raises AdapterError where a number is NaN or infinite, or
        `folder` holds other files; RunError where it cannot be written.
        """
        head, prompt = head_state(self._loaded), copy_state({"input": self._layer.input})
        if not TASK_TYPES[self._task]:
            write_replaced(Replaced(base, self._task, head, prompt, self._about(base)), folder)
            return
        tensors = {PEFT_KEY: prompt["input"]}
        write_tensors(self._config(), tensors, folder, base, head, self._loaded.head, TASK_TYPES[self._task])

    def merged(self) -> nn.Module:
        """Raise AdapterError: no weight can take a prompt up."""
        raise AdapterError(
            "soft prompts stand among a model's tokens, and no weight can take them up; export the adapter alone"
        )

    def _config(self) -> Any:
        from peft import PromptTuningConfig

        config: Any = self.model.config
        return PromptTuningConfig(
            num_virtual_tokens=self._layer.tokens,
            token_dim=self._layer.input.shape[1],
            num_transformer_submodules=1,
            num_attention_heads=config.num_attention_heads,
            num_layers=config.num_hidden_layers,
        )

    def _about(self, base: str) -> dict[str, Any]:
        """Where the prompt stands, in the words of split models: behind the embeddings, before all layers."""
        labels: dict[int, str] = self.model.config.id2label  # type: ignore[union-attr, assignment]
        names, size = [labels[number] for number in sorted(labels)], self._loaded.processor.size
        model = {"name": base, "task": self._task, "labels": names, "image_size": size}
        split = {"head_layers": 0, "tail_layers": 0, "prompt_tokens": self._layer.tokens}
        return {"model": model, "split": split}
