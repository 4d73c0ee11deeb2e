from protos.fedtune.v1 import link_pb2 as _link_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SplitClientFrame(_message.Message):
    __slots__ = ("open", "forward", "backward", "more", "taken", "heartbeat", "close", "step")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    FORWARD_FIELD_NUMBER: _ClassVar[int]
    BACKWARD_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    open: Open
    forward: Forward
    backward: Backward
    more: More
    taken: Taken
    heartbeat: _link_pb2.Heartbeat
    close: Close
    step: Step
    def __init__(self, open: _Optional[_Union[Open, _Mapping]] = ..., forward: _Optional[_Union[Forward, _Mapping]] = ..., backward: _Optional[_Union[Backward, _Mapping]] = ..., more: _Optional[_Union[More, _Mapping]] = ..., taken: _Optional[_Union[Taken, _Mapping]] = ..., heartbeat: _Optional[_Union[_link_pb2.Heartbeat, _Mapping]] = ..., close: _Optional[_Union[Close, _Mapping]] = ..., step: _Optional[_Union[Step, _Mapping]] = ...) -> None: ...

class SplitServerFrame(_message.Message):
    __slots__ = ("opened", "result", "more", "heartbeat", "refusal", "stepped")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    STEPPED_FIELD_NUMBER: _ClassVar[int]
    opened: Opened
    result: Result
    more: More
    heartbeat: _link_pb2.Heartbeat
    refusal: _link_pb2.Refusal
    stepped: Stepped
    def __init__(self, opened: _Optional[_Union[Opened, _Mapping]] = ..., result: _Optional[_Union[Result, _Mapping]] = ..., more: _Optional[_Union[More, _Mapping]] = ..., heartbeat: _Optional[_Union[_link_pb2.Heartbeat, _Mapping]] = ..., refusal: _Optional[_Union[_link_pb2.Refusal, _Mapping]] = ..., stepped: _Optional[_Union[Stepped, _Mapping]] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("hello", "run", "round", "window", "body")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    hello: _link_pb2.Hello
    run: str
    round: int
    window: int
    body: str
    def __init__(self, hello: _Optional[_Union[_link_pb2.Hello, _Mapping]] = ..., run: _Optional[str] = ..., round: _Optional[int] = ..., window: _Optional[int] = ..., body: _Optional[str] = ...) -> None: ...

class Opened(_message.Message):
    __slots__ = ("window", "max_tensor_bytes", "chunk_bytes", "heartbeat_s", "codec", "topk", "width", "body", "resumed", "held", "held_back", "trains")
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    MAX_TENSOR_BYTES_FIELD_NUMBER: _ClassVar[int]
    CHUNK_BYTES_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_S_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    TOPK_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    HELD_BACK_FIELD_NUMBER: _ClassVar[int]
    TRAINS_FIELD_NUMBER: _ClassVar[int]
    window: int
    max_tensor_bytes: int
    chunk_bytes: int
    heartbeat_s: float
    codec: str
    topk: float
    width: int
    body: str
    resumed: bool
    held: _containers.RepeatedScalarFieldContainer[int]
    held_back: _containers.RepeatedScalarFieldContainer[int]
    trains: bool
    def __init__(self, window: _Optional[int] = ..., max_tensor_bytes: _Optional[int] = ..., chunk_bytes: _Optional[int] = ..., heartbeat_s: _Optional[float] = ..., codec: _Optional[str] = ..., topk: _Optional[float] = ..., width: _Optional[int] = ..., body: _Optional[str] = ..., resumed: _Optional[bool] = ..., held: _Optional[_Iterable[int]] = ..., held_back: _Optional[_Iterable[int]] = ..., trains: _Optional[bool] = ...) -> None: ...

class Activations(_message.Message):
    __slots__ = ("rows", "tokens", "width", "total_bytes", "crc32", "data")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    CRC32_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    rows: int
    tokens: int
    width: int
    total_bytes: int
    crc32: int
    data: bytes
    def __init__(self, rows: _Optional[int] = ..., tokens: _Optional[int] = ..., width: _Optional[int] = ..., total_bytes: _Optional[int] = ..., crc32: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class More(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class Span(_message.Message):
    __slots__ = ("begin", "end")
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    begin: int
    end: int
    def __init__(self, begin: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class Forward(_message.Message):
    __slots__ = ("number", "hidden", "mask", "output", "gradient", "silent")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_FIELD_NUMBER: _ClassVar[int]
    SILENT_FIELD_NUMBER: _ClassVar[int]
    number: int
    hidden: Activations
    mask: bytes
    output: Span
    gradient: Span
    silent: bool
    def __init__(self, number: _Optional[int] = ..., hidden: _Optional[_Union[Activations, _Mapping]] = ..., mask: _Optional[bytes] = ..., output: _Optional[_Union[Span, _Mapping]] = ..., gradient: _Optional[_Union[Span, _Mapping]] = ..., silent: _Optional[bool] = ...) -> None: ...

class Backward(_message.Message):
    __slots__ = ("number", "gradient")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_FIELD_NUMBER: _ClassVar[int]
    number: int
    gradient: Activations
    def __init__(self, number: _Optional[int] = ..., gradient: _Optional[_Union[Activations, _Mapping]] = ...) -> None: ...

class Step(_message.Message):
    __slots__ = ("number", "factor", "last")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    FACTOR_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    number: int
    factor: float
    last: bool
    def __init__(self, number: _Optional[int] = ..., factor: _Optional[float] = ..., last: _Optional[bool] = ...) -> None: ...

class Stepped(_message.Message):
    __slots__ = ("count",)
    COUNT_FIELD_NUMBER: _ClassVar[int]
    count: int
    def __init__(self, count: _Optional[int] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("number", "backward", "tensor")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    BACKWARD_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    number: int
    backward: bool
    tensor: Activations
    def __init__(self, number: _Optional[int] = ..., backward: _Optional[bool] = ..., tensor: _Optional[_Union[Activations, _Mapping]] = ...) -> None: ...

class Taken(_message.Message):
    __slots__ = ("number", "backward")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    BACKWARD_FIELD_NUMBER: _ClassVar[int]
    number: int
    backward: bool
    def __init__(self, number: _Optional[int] = ..., backward: _Optional[bool] = ...) -> None: ...

class Close(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
