"""Reads command lines of `fedtune` as the real command line does, without running them."""

import re
import shlex
from collections.abc import Iterator, Sequence

import click

from fedtune.cli.main import main

ENVIRONMENT = re.compile(r"[A-Z_]+=.*")
ENDS = {"|", "||", "&&", ";", ">", ">>", "&", "2>"}


def complaint(words: Sequence[str], *, whole: bool = True) -> str:
    """What the command line says against `fedtune WORDS…`; empty where it takes them.

    Commands, options, their values and the number of arguments are checked; no command runs. With `whole=False`
    arguments and options may be missing, as where a text only names a command.
    """
    asked = [word for word in words if word not in {"--help", "-h"}]
    try:
        _descend(main, "fedtune", asked, whole=whole and asked == list(words))
    except click.ClickException as error:
        return error.format_message()
    return ""


def _descend(command: click.Command, name: str, words: list[str], *, whole: bool) -> None:
    if isinstance(command, click.Group):
        rest = [word for word in words if word not in {"--version", "--debug"}]
        if rest:
            found, inner, rest = command.resolve_command(click.Context(command, info_name=name), rest)
            assert inner is not None
            _descend(inner, str(found), rest, whole=whole)
        return
    try:
        command.make_context(name, list(words)).close()
    except click.MissingParameter:
        if whole:
            raise


def options() -> set[str]:
    """Every option of every command."""
    return {"--help", *(option for command in _commands(main) for param in command.params for option in param.opts)}


def _commands(command: click.Command) -> Iterator[click.Command]:
    yield command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _commands(inner)


def split(line: str) -> list[list[str]]:
    """The commands of one shell line, each as its words, without variables before it and redirections behind."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;>")
    lexer.whitespace_split, lexer.commenters = True, "#"
    commands: list[list[str]] = [[]]
    skips = False
    for word in lexer:
        if word in {">", ">>", "2>"}:
            skips = True
        elif word in ENDS:
            commands.append([])
        elif skips:
            skips = False
        else:
            commands[-1].append(word)
    return [_without_variables(command) for command in commands if command]


def _without_variables(words: list[str]) -> list[str]:
    """The command itself, behind `sudo`, `-u USER`, `env` and settings of variables."""
    while words and (ENVIRONMENT.fullmatch(words[0]) or words[0] in {"sudo", "env", ".", "-u"}):
        words = words[2:] if words[0] == "-u" else words[1:]
    return words
