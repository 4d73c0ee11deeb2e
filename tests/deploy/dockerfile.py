"""A Dockerfile as its stages and their instructions."""

import re
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Stage:
    """What stands between two `FROM`."""

    base: str
    name: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def last(self, keyword: str) -> str:
        """The value of the last instruction of a kind; empty where there is none."""
        return next((value for word, value in reversed(self.instructions) if word == keyword), "")


def read_dockerfile(path: Path) -> dict[str, Stage]:
    """The stages by name, in order."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    stages: dict[str, Stage] = {}
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        keyword, _, value = line.strip().partition(" ")
        if keyword == "FROM":
            base, _, name = value.partition(" AS ")
            stages[name] = Stage(base, name)
        elif keyword and stages:
            next(reversed(stages.values())).instructions.append((keyword, value.strip()))
    return stages


def lineage(stages: dict[str, Stage], name: str) -> list[Stage]:
    """A stage and those that it is built on, itself first."""
    found = [stages[name]]
    while found[-1].base in stages:
        found.append(stages[found[-1].base])
    return found


def inherited(stages: dict[str, Stage], name: str, keyword: str) -> str:
    """The value of an instruction as the finished image has it."""
    return next((value for stage in lineage(stages, name) if (value := stage.last(keyword))), "")
