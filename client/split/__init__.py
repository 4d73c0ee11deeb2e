"""The client's end of a split model: a body that is the coordinator's, over a stream beside the link."""

from client.split.remote import remote_bodies

__all__ = ["remote_bodies"]
