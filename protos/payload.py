"""A fedtune message as the content of a Flower message: one `Array` of bytes with a type of its own."""

from collections import OrderedDict

from flwr.app import Array, ArrayRecord, RecordDict

from fedtune.errors import MalformedMessage, OversizeMessage

STYPE = "fedtune.v1"
_RECORD, _ARRAY = "fedtune", "message"


def to_content(data: bytes) -> RecordDict:
    """Wrap encoded bytes; Flower carries them untouched in every runtime."""
    array = Array(dtype="uint8", shape=(len(data),), stype=STYPE, data=data)
    return RecordDict({_RECORD: ArrayRecord(OrderedDict({_ARRAY: array}))})


def from_content(content: RecordDict, *, max_bytes: int) -> bytes:
    """The bytes that `to_content` wrapped; raises MalformedMessage or OversizeMessage."""
    try:
        array = content[_RECORD][_ARRAY]
        data, stype = array.data, array.stype
    except (KeyError, TypeError, AttributeError) as error:
        raise MalformedMessage(
            "a Flower message came without the fedtune record; is the other side fedtune?"
        ) from error
    if stype != STYPE or not isinstance(data, bytes):
        raise MalformedMessage(f"a Flower message carries {stype!r}, not {STYPE!r}; run the same fedtune on both sides")
    if len(data) > max_bytes:
        raise OversizeMessage(f"a message of {len(data)} bytes is over the limit of {max_bytes}")
    return data
