"""Who may take part: a certificate authority of one's own, one key a client, and the list of those enrolled."""

from server.keys.credentials import ServerKeys
from server.keys.enrolment import Enrolment
from server.keys.folder import KeyFolder

__all__ = ["Enrolment", "KeyFolder", "ServerKeys"]
