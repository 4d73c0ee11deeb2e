"""The README and every page of the documentation, taken apart: shell lines, inline code, links, headings."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+\s+(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path
    text: str

    @property
    def name(self) -> str:
        """Its path in the repository."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def prose(self) -> str:
        """The text without its fenced blocks."""
        return FENCE.sub("", self.text)

    def blocks(self, language: str) -> list[str]:
        """The fenced blocks of a language."""
        return [body for found, body in FENCE.findall(self.text) if found == language]

    def shell_lines(self) -> Iterator[str]:
        """What follows `$ ` in console blocks, with continued lines joined."""
        for block in self.blocks("console"):
            joined = re.sub(r"\\\n\s*", " ", block)
            yield from (line[2:] for line in joined.splitlines() if line.startswith("$ "))

    def inline_code(self) -> list[str]:
        """What stands between backticks in the prose."""
        return CODE.findall(self.prose)

    def links(self) -> list[str]:
        """The targets of links and pictures in the prose."""
        return LINK.findall(self.prose)

    def anchors(self) -> set[str]:
        """The anchors of its headings, as MkDocs and forges make them."""
        return {_slug(heading) for heading in HEADING.findall(self.prose)}


def _slug(heading: str) -> str:
    return re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip())


@cache
def pages() -> tuple[Page, ...]:
    """All of them, by path."""
    top = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "deploy/README.md")]
    return tuple(Page(path, path.read_text(encoding="utf-8")) for path in [*top, *sorted(ROOT.glob("docs/**/*.md"))])
