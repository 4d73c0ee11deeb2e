"""Messages to bytes and back: `encode(Message) -> bytes`, `decode(bytes) -> Message`."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pydantic import ValidationError

from fedtune.errors import MalformedMessage
from fedtune.wire.envelope import MAX_MESSAGE_BYTES, Envelope, pack, unpack
from fedtune.wire.headers import EvaluationHeader, RefusalHeader, TaskHeader, UpdateHeader
from fedtune.wire.links import LINKS, ledger_header, ledger_tensors, read_offer
from fedtune.wire.messages import Evaluation, Message, Refusal, Task, Update

_STATE, _SHARED, _SHIFT, _CONTROL, _STEP = "state/", "shared/", "shift/", "control/", "step/"


def encode(message: Message) -> bytes:
    """The bytes of a message; the same message always gives the same bytes."""
    return _ENCODERS[type(message)](message)


def decode(data: bytes, *, max_bytes: int = MAX_MESSAGE_BYTES) -> Message:
    """The message in `data`; raises MalformedMessage or OversizeMessage."""
    envelope = unpack(data, max_bytes=max_bytes)
    try:
        return _DECODERS[envelope.kind](envelope)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "header"
        raise MalformedMessage(f"the {envelope.kind} message has a bad {where}: {first['msg']}") from error


def _encode_task(task: Task) -> bytes:
    header = TaskHeader(
        kind=task.kind,
        run=task.run,
        round=task.round,
        recipe=dict(task.recipe),
        recipe_fingerprint=task.recipe_fingerprint,
        model_fingerprint=task.model_fingerprint,
        base=task.base,
        sketch=dict(task.sketch),
        shared_digest=task.shared_digest,
        rank=task.rank,
        shift_from=task.shift_from,
        shift_key=task.shift_key,
        chain=task.chain,
        chain_rounds=task.chain_rounds,
        feedback_round=task.feedback_round,
        ledger=ledger_header(task.ledger),
    )
    tensors = ledger_tensors(task.ledger)
    tensors |= _prefixed(_STATE, task.state) | _prefixed(_SHARED, task.shared)
    tensors |= _prefixed(_SHIFT, task.shift) | _prefixed(_CONTROL, task.control)
    for number, step in enumerate(task.steps):
        tensors |= _prefixed(f"{_STEP}{number}/", step)
    return pack("task", _json(header), tensors)


def _decode_task(envelope: Envelope) -> Task:
    header = TaskHeader.model_validate_json(envelope.header)
    offer = read_offer(header.ledger, envelope.tensors)
    parts = {prefix: _unprefixed(prefix, envelope.tensors) for prefix in (_STATE, _SHARED, _SHIFT, _CONTROL)}
    steps = tuple(_unprefixed(f"{_STEP}{number}/", envelope.tensors) for number in range(len(header.chain_rounds)))
    links = int(LINKS in envelope.tensors and offer is not None)
    if links + sum(map(len, (*parts.values(), *steps))) != len(envelope.tensors):
        raise MalformedMessage("the task message holds tensors that are no part of a task")
    if len(header.chain) != (len(steps) + 1 if steps else 0):
        raise MalformedMessage("the task message has a chain of states that does not fit its steps")
    return Task(
        **{**_fields(header), "ledger": offer},
        state=parts[_STATE],
        shared=parts[_SHARED],
        shift=parts[_SHIFT],
        control=parts[_CONTROL],
        steps=steps,
    )


def _encode_update(update: Update) -> bytes:
    header = UpdateHeader(
        run=update.run,
        round=update.round,
        client=update.client,
        base=update.base,
        stages=update.stages,
        examples=update.examples,
        metrics={k: v for k, v in update.metrics.items() if math.isfinite(v)},
        rank=update.rank,
        feedback_round=update.feedback_round,
    )
    return pack("update", _json(header), {**update.tensors, **_prefixed(_CONTROL, update.control)})


def _decode_update(envelope: Envelope) -> Update:
    header = UpdateHeader.model_validate_json(envelope.header)
    control = _unprefixed(_CONTROL, envelope.tensors)
    tensors = {name: tensor for name, tensor in envelope.tensors.items() if not name.startswith(_CONTROL)}
    return Update(**_fields(header), tensors=tensors, control=control)


def _encode_evaluation(score: Evaluation) -> bytes:
    header = EvaluationHeader(
        run=score.run,
        round=score.round,
        client=score.client,
        base=score.base,
        examples=score.examples,
        loss_sum=score.loss_sum,
        correct=score.correct,
    )
    return pack("evaluation", _json(header), {})


def _decode_evaluation(envelope: Envelope) -> Evaluation:
    return Evaluation(**_fields(EvaluationHeader.model_validate_json(_bare(envelope))))


def _encode_refusal(refusal: Refusal) -> bytes:
    header = RefusalHeader(
        run=refusal.run,
        round=refusal.round,
        client=refusal.client,
        reason=refusal.reason,
        message=refusal.message[:2000],
    )
    return pack("refusal", _json(header), {})


def _decode_refusal(envelope: Envelope) -> Refusal:
    return Refusal(**_fields(RefusalHeader.model_validate_json(_bare(envelope))))


_ENCODERS: dict[type, Callable[[Any], bytes]] = {
    Task: _encode_task,
    Update: _encode_update,
    Evaluation: _encode_evaluation,
    Refusal: _encode_refusal,
}
_DECODERS: dict[str, Callable[[Envelope], Message]] = {
    "task": _decode_task,
    "update": _decode_update,
    "evaluation": _decode_evaluation,
    "refusal": _decode_refusal,
}


def _json(header: TaskHeader | UpdateHeader | EvaluationHeader | RefusalHeader) -> bytes:
    return header.model_dump_json(exclude_defaults=True).encode()


def _fields(header: TaskHeader | UpdateHeader | EvaluationHeader | RefusalHeader) -> dict[str, Any]:
    return {name: getattr(header, name) for name in type(header).model_fields}


def _prefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _unprefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _bare(envelope: Envelope) -> bytes:
    if envelope.tensors:
        raise MalformedMessage(f"an {envelope.kind} message holds tensors; it must not")
    return envelope.header
