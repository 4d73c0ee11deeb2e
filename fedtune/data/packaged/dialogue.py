"""English questions and answers of the ChatterBot corpus, by topic."""

from pathlib import Path

import yaml

from fedtune.data.packaged.about import About, find_file, write_packaged

LICENCE = "BSD-3-Clause (package chatterbot-corpus)"


def convert_trivia(unpacked: Path, out: Path) -> None:
    """Pairs of what is said and what is answered; columns `prompt`, `answer`, `topic` (one file a topic).

    Only the first answer counts: in some files later lines go on with the talk, in others they are alternatives.
    """
    folder = find_file(unpacked, "chatterbot_corpus", "data", "english", "trivia.yml").parent
    rows: dict[str, list[str]] = {"prompt": [], "answer": [], "topic": []}
    for path in sorted(folder.glob("*.yml")):
        for turns in yaml.safe_load(path.read_text(encoding="utf-8"))["conversations"]:
            # One entry is a bare sentence instead of a pair; it answers nothing.
            pair = [str(turn).strip() for turn in turns[:2]] if isinstance(turns, list) else []
            if len(pair) == 2 and all(pair):
                rows["prompt"].append(pair[0])
                rows["answer"].append(pair[1])
                rows["topic"].append(path.stem)
    about = About("questions and answers by topic", LICENCE, "causal-lm", tuple(rows), natural="topic")
    write_packaged(out, about, rows)
