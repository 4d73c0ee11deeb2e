"""The reference of every key, as Markdown: read off the sections, so that it cannot say anything else than they do."""

from fedtune.recipe.allowed import allowed, as_toml
from fedtune.recipe.keys import field_at, leaf_keys, section_at, sections
from fedtune.recipe.lines import Path
from fedtune.recipe.methods import METHODS
from fedtune.recipe.recipe import Recipe


def reference() -> str:
    """A table of keys for each section, then one of the methods."""
    return "\n".join([*(_section(path) for path in sections()), _methods()])


def _section(path: Path) -> str:
    model = section_at(path) or Recipe
    title = f"### `[{'.'.join(map(str, path))}]`\n\n{_one_line(model.__doc__ or '')}" if path else "### At the top"
    rows = "\n".join(_row(key) for key in leaf_keys(path) if key[:-1] == path)
    return f"{title}\n\n| key | default | may be | |\n|---|---|---|---|\n{rows}\n"


def _row(path: Path) -> str:
    field = field_at(path)
    if field is None:
        return ""
    default = "must be given" if field.is_required() else f"`{as_toml(field.default)}`"
    return f"| `{path[-1]}` | {default} | {allowed(field)} | {_one_line(field.description or '')} |"


def _methods() -> str:
    rows = "\n".join(_method_row(name) for name in METHODS)
    return f"### Methods\n\n| `method` | what it is | what it settles |\n|---|---|---|\n{rows}\n"


def _method_row(name: str) -> str:
    settled = "; ".join(
        f"`{'.'.join(map(str, path))}` = {' or '.join(f'`{value}`' for value in values)}"
        + (" unless given" if isinstance(values[0], float) or type(values[0]) is int else "")
        for path, values in METHODS[name].settles.items()
    )
    return f"| `{name}` | {METHODS[name].title} | {settled} |"


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    print(reference(), end="")
