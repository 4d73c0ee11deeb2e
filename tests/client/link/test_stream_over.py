"""A stream that is over takes nothing from the endpoint: the frame would be missing in the next stream."""

import threading

import grpc

from client.link.stream import Stream
from protos.address import parse_address
from protos.endpoint import Endpoint
from protos.fedtune.v1.link_pb2 import ClientFrame, Hello
from protos.limits import LinkLimits
from protos.transfer import Body


def test_what_is_asked_for_after_the_end_is_left_to_the_next_stream() -> None:
    endpoint = Endpoint(ClientFrame, LinkLimits(), wanted=lambda _: True)
    with grpc.insecure_channel("127.0.0.1:1") as channel:
        address = parse_address("127.0.0.1:1")
        stream = Stream(channel, address, endpoint, threading.Condition(), lambda _: None, lambda _: None)
        frames = stream._frames(Hello())
        assert next(frames).HasField("hello")
        stream.leave()  # before the coordinator's welcome: nothing is to be said
        stream.welcomed = True
        endpoint.send("reply", Body(b"abc").followed_by(b""))
        assert list(frames) == []
        assert not endpoint.has_begun("reply")
        assert (first := endpoint.next_frame()) is not None
        assert first.HasField("begin")
