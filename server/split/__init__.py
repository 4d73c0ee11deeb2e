"""The coordinator's end of a split model: its body, served to enrolled clients beside the link."""

from server.split.service import SplitService

__all__ = ["SplitService"]
