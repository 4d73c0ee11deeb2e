"""What a client computes: the head, the tail, and the short circuit between them, on one client part."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from fedtune.recipe.model import Task
from fedtune.split.base import Smashed, Wants
from fedtune.split.body import bare
from fedtune.split.cut import Cut
from fedtune.split.family import Family, check_split_task, family_of
from fedtune.split.prompt import Prompts, extend_mask, insert
from fedtune.split.views import Fresh, Prompted, Unprompted, view

Batch = Mapping[str, torch.Tensor]


class ClientParts:
    """Head and tail as views on a client part: they share its layers and parameters, adapters inside of them too.

    Guarantees: the client part stays as it is; tail(body(head(x))) is what the whole model computes, and tail(head(x))
    what the client part computes. The views are taken once: whatever replaces modules must be in place before.
    """

    def __init__(self, model: nn.Module, cut: Cut, family: Family, prompts: Prompts | None) -> None:
        self.cut, self.family, self.prompts = cut, family, prompts
        self._model = model
        prefix = str(model.base_model_prefix)
        base = model.get_submodule(prefix)
        self._layers, layers = family.layers_of(base)
        held = [self._with_own_prompt(layer, index) for index, layer in enumerate(layers)]
        self._embed = base.get_submodule(family.embeddings)
        self._head = view(base, self._head_parts(held[: cut.head]))
        behind = self._tail_parts(base, held[cut.head :])
        self._tail = view(model, {f"{prefix}.{name}": other for name, other in behind.items()})

    @classmethod
    def of(cls, model: nn.Module, cut: Cut, task: Task, prompts: Prompts | None = None) -> "ClientParts":
        """The parts of a model that `load_client_part` gave, with or without adapters in it.

        Raises ModelError where the model's family cannot be split, or not for this task.
        """
        whole: Any = model
        plain = whole.get_base_model() if hasattr(whole, "get_base_model") else whole
        family = family_of(plain.config)
        check_split_task(task, family)
        return cls(plain, cut, family, prompts)

    def head(self, batch: Batch) -> Smashed:
        """From a batch on the model's device to the activations at the first cut, prompts among them."""
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        mask = inputs.pop("attention_mask", None)
        if self.prompts is not None and not self.prompts.at_cut:
            mask = self._extended(mask)
            if self.family.task == "causal-lm":
                embedded = self._embed(inputs.pop("input_ids"))
                inputs["inputs_embeds"] = insert(embedded, self.prompts.input, self.family.prompt_at)
        hidden = self._head(**inputs, **self._arguments(mask)).last_hidden_state
        if self.prompts is not None and self.prompts.at_cut:
            hidden, mask = insert(hidden, self.prompts.input, self.family.prompt_at), self._extended(mask)
        return Smashed(hidden, mask)

    def tail(self, smashed: Smashed, batch: Batch) -> Any:
        """From the body's output to `loss` and `logits`, by transformers' own head; of the batch labels are read.

        `smashed.hidden` is the body's output for the tokens of `wants().output`, or for all tokens. The logits of a
        causal LM are (B, T, V) for the batch's own tokens; without labels there is no loss.
        """
        arguments = self._arguments(smashed.mask if self.cut.tail else None)
        if self.family.task == "causal-lm":
            arguments["logits_to_keep"] = batch["input_ids"].shape[1]
        return self._tail(**{self.family.hidden: smashed.hidden}, labels=batch.get("labels"), **arguments)

    def short(self, **batch: Any) -> Any:
        """The short circuit from head to tail: output with `loss` and `logits`, as a model is called."""
        tensors = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
        return self.tail(self.head(tensors), tensors)

    def wants(self, *, train_head: bool | None = None, train_prompt: bool | None = None) -> Wants:
        """Which tokens' share has to cross the cuts when the head, or the prompt, is trained.

        None asks the parameters whether they require gradients now.
        """
        head = self._trains_head() if train_head is None else train_head
        prompt = self._trains_prompt() if train_prompt is None else train_prompt and self.prompts is not None
        return Wants(self._output(), self._gradient(head, prompt))

    def before_cut(self) -> frozenset[str]:
        """The names, in the client part, of the parameters that the head reads, whether or not the tail does too."""
        head = set(map(id, self._head.parameters()))
        return frozenset(name for name, p in self._model.named_parameters() if id(p) in head)

    def _output(self) -> slice:
        if self.cut.tail:
            return slice(None)
        if self.family.reads_first:
            return slice(0, 1)
        if self.family.task == "causal-lm" and self.prompts is not None:
            return slice(self.prompts.tokens, None)
        return slice(None)

    def _gradient(self, head: bool, prompt: bool) -> slice | None:
        if head:
            return slice(None)
        if not prompt or self.prompts is None:
            return None
        if self.cut.head and not self.prompts.at_cut:
            return slice(None)  # behind a layer every token has read the prompt
        return slice(self.family.prompt_at, self.family.prompt_at + self.prompts.tokens)

    def _trains_head(self) -> bool:
        prompts = set() if self.prompts is None else set(map(id, self.prompts.parameters()))
        return any(p.requires_grad and id(p) not in prompts for p in self._head.parameters())

    def _trains_prompt(self) -> bool:
        if self.prompts is None:
            return False
        deep = (self.prompts.deep(index) for index in range(self.cut.head))
        return any(vectors is not None and vectors.requires_grad for vectors in (self.prompts.input, *deep))

    def _with_own_prompt(self, layer: nn.Module, index: int) -> nn.Module:
        vectors = None if self.prompts is None else self.prompts.deep(index)
        return layer if vectors is None else Fresh(layer, vectors, self.family.prompt_at)

    def _head_parts(self, layers: list[nn.Module]) -> dict[str, nn.Module | None]:
        """What the head view has in the place of the base model's own."""
        parts: dict[str, nn.Module | None] = {self._layers: nn.ModuleList(layers)}
        parts |= {name: nn.Identity() for name in (self.family.norm,) if name}
        parts |= {name: None for name in (self.family.pooler,) if name}
        if self.prompts is not None and not self.prompts.at_cut and self.family.task != "causal-lm":
            parts[self.family.embeddings] = Prompted(self._embed, self.prompts.input, self.family.prompt_at)
        return parts

    def _tail_parts(self, base: nn.Module, layers: list[nn.Module]) -> dict[str, nn.Module | None]:
        """What the tail view's base model has in the place of its own: norm and pooler stay."""
        kept = (self.family.norm, self.family.pooler)
        parts = {name: other for name, other in bare(self.family).items() if name not in kept}
        parts[self._layers] = nn.ModuleList(layers)
        if self.prompts is not None and self.family.norm and self.family.task == "image-classification":
            norm = base.get_submodule(self.family.norm)
            parts[self.family.norm] = Unprompted(norm, self.prompts.tokens, self.family.prompt_at)
        return parts

    def _extended(self, mask: torch.Tensor | None) -> torch.Tensor | None:
        return mask if self.prompts is None else extend_mask(mask, self.prompts.tokens, self.family.prompt_at)

    def _arguments(self, mask: torch.Tensor | None) -> dict[str, Any]:
        arguments: dict[str, Any] = {} if mask is None else {"attention_mask": mask}
        # Every token is read at once: a key-value cache would only cost memory.
        return arguments | ({"use_cache": False} if self.family.task == "causal-lm" else {})
