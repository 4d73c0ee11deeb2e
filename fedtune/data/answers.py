"""Instruction pairs become token ids: the prompt is read, the answer is learned."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

PLAIN_TEMPLATE = "### Instruction:\n{prompt}\n\n### Answer:\n"
"""What frames a prompt where the tokenizer has no chat template of its own."""


@dataclass(frozen=True, slots=True)
class TokenPair:
    """One row: `ids` from `answer_start` on are the answer and its end."""

    ids: list[int]
    answer_start: int
    cut: bool


def framed(prompt: str, tokenizer: Any) -> str:
    """The prompt as the model was taught to be asked, up to where its answer begins."""
    if getattr(tokenizer, "chat_template", None):
        turns = [{"role": "user", "content": prompt}]
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    return PLAIN_TEMPLATE.format_map({"prompt": prompt})


def token_pairs(prompts: Sequence[str], answers: Sequence[str], tokenizer: Any, max_length: int) -> list[TokenPair]:
    """Every pair as ids of at most `max_length`, ended by the tokenizer's end token.

    Prompt and answer are tokenised apart, so that the border between them is the one that generation meets.
    """
    if not prompts:
        return []
    prompt_ids = _ids([framed(prompt, tokenizer) for prompt in prompts], tokenizer)
    answer_ids = _ids([answer.strip() for answer in answers], tokenizer)
    start = [] if getattr(tokenizer, "chat_template", None) else _start(tokenizer)
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return [fit(start, prompt, answer + end, max_length) for prompt, answer in zip(prompt_ids, answer_ids, strict=True)]


def fit(start: list[int], prompt: list[int], answer: list[int], max_length: int) -> TokenPair:
    """Cut a pair to `max_length`: the prompt loses its beginning and the answer its end.

    The answer keeps at least half of the room (all of it where it is shorter), so no row is without something to
    learn; the prompt keeps the end that leads to the answer. `start` stays where it fits.
    """
    whole = start + prompt
    cut = len(whole) + len(answer) > max_length
    answer_room = min(len(answer), max(max_length - len(whole), max_length // 2))
    prompt_room = max_length - answer_room
    if len(whole) > prompt_room:
        start = start if prompt_room > len(start) else []
        whole = start + prompt[len(prompt) - (prompt_room - len(start)) :]
    return TokenPair(whole + answer[:answer_room], len(whole), cut)


def _ids(texts: list[str], tokenizer: Any) -> list[list[int]]:
    encoded: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return encoded


def _start(tokenizer: Any) -> list[int]:
    """The token that the tokenizer itself puts before a text, if any."""
    first = tokenizer("a", verbose=False)["input_ids"][:1]
    return first if tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id] else []
