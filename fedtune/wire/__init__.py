"""Messages as bytes: versioned, bounded, checked."""

from fedtune.wire.codec import decode, encode
from fedtune.wire.messages import Evaluation, Message, Refusal, Task, TaskKind, Update

__all__ = ["Evaluation", "Message", "Refusal", "Task", "TaskKind", "Update", "decode", "encode"]
