"""The design's rules about imports, sizes and docstrings, read off the source as it is."""

import ast
import statistics
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("fedtune", "server", "client", "protos", "simulations")
GENERATED = ("_pb2.py", "_pb2_grpc.py")
LARGEST, LARGEST_MEDIAN = 500, 130

FORBIDDEN = {
    "fedtune": {"flwr", "flwr_datasets", "grpc", "server", "client", "simulations"},
    "protos": {"server", "client", "simulations"},
    "server": {"client", "simulations"},
    "client": {"server", "simulations"},
}
"""What each package never imports: the library knows no transport, the two ends of the link do not know each other."""

PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
UNPICKLERS = {("torch", "load"), ("torch", "save"), ("pandas", "read_pickle"), ("pd", "read_pickle")}


@cache
def tree(path: Path) -> ast.Module:
    """A file as it parses."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def sources(*packages: str) -> list[Path]:
    """Every module that people wrote, in these packages or in all."""
    found = sorted(path for package in packages or PACKAGES for path in (ROOT / package).rglob("*.py"))
    assert found
    return [path for path in found if not path.name.endswith(GENERATED)]


def everything() -> list[Path]:
    """The packages, tests and benchmarks."""
    return sources() + sorted(path for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    """`fedtune/wire/codec.py` as `fedtune.wire.codec`; a package by its own name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[str]:
    """Every module and name that a file imports anywhere, dotted."""
    for start, names in _import_statements(path, at_import_time=False):
        yield from [start, *(f"{start}.{name}" for name in names)]


def _import_statements(path: Path, *, at_import_time: bool) -> Iterator[tuple[str, list[str]]]:
    """(module, names taken from it) of each import; `at_import_time` leaves out functions and TYPE_CHECKING."""
    for node in _nodes(tree(path), at_import_time=at_import_time):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield _absolute(path, node), [alias.name for alias in node.names]


def _absolute(path: Path, node: ast.ImportFrom) -> str:
    package = module_name(path).split(".")
    kept = package[: len(package) - node.level + (path.name == "__init__.py")] if node.level else []
    return ".".join([*kept, *filter(None, [node.module])])


def _nodes(top: ast.AST, *, at_import_time: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(top):
        if at_import_time and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if at_import_time and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from _nodes(node, at_import_time=at_import_time)


def named(path: Path) -> str:
    """A path as a test's failure should show it."""
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_imports_nothing_that_is_above_it_or_beside_it(package: str) -> None:
    found = {
        f"{named(path)} imports {name}"
        for path in sources(package)
        for name in imports(path)
        if name.split(".")[0] in FORBIDDEN[package]
    }
    assert not found


def test_flowers_private_names_are_imported_in_one_file_alone() -> None:
    users = {
        named(path)
        for path in sources()
        for name in imports(path)
        if name.split(".")[0] == "flwr" and not _is_public(name)
    }
    assert users == {"protos/flower.py"}


def _is_public(name: str) -> bool:
    """`flwr.app.Message` is; `flwr.common.…`, `flwr.supercore.…` and names with an underscore are not."""
    parts = name.split(".")
    doors = {"app", "serverapp", "clientapp", "simulation"}
    return len(parts) == 1 or (parts[1] in doors and not any(part.startswith("_") for part in parts))


def test_nothing_is_ever_pickled_or_unpickled() -> None:
    found = {
        f"{named(path)} imports {name}"
        for path in everything()
        for name in imports(path)
        if name.split(".")[0] in PICKLES
    }
    assert not found | {call for path in sources() for call in _unpickling_calls(path)}


def _unpickling_calls(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        match node:
            case ast.Attribute(value=ast.Name(id=module), attr=name) if (module, name) in UNPICKLERS:
                yield f"{named(path)}:{node.lineno} {module}.{name}"
            case ast.keyword(arg=("allow_pickle" | "trust_remote_code") as option, value=ast.Constant(value=True)):
                yield f"{named(path)}:{node.value.lineno} {option}=True"
            case ast.keyword(arg="weights_only", value=ast.Constant(value=False)):
                yield f"{named(path)}:{node.value.lineno} weights_only=False"
            case ast.ImportFrom(module="torch", names=names) if {"load", "save"} & {alias.name for alias in names}:
                yield f"{named(path)}:{node.lineno} from torch import load"


def test_every_module_opens_with_a_docstring() -> None:
    assert not [named(path) for path in everything() if not (ast.get_docstring(tree(path)) or "").strip()]


def test_no_file_is_long_and_half_of_them_are_short() -> None:
    lengths = {named(path): len(path.read_text(encoding="utf-8").splitlines()) for path in everything()}
    assert not {path: length for path, length in lengths.items() if length > LARGEST}
    ours = [lengths[named(path)] for path in sources() if path.name != "__init__.py"]
    assert statistics.median(ours) <= LARGEST_MEDIAN


def test_modules_import_each_other_in_no_circle() -> None:
    modules = {module_name(path): path for path in sources()}
    graph = {name: _imported_modules(path, modules) - {name} for name, path in modules.items()}
    assert _circles(graph) == []


def _imported_modules(path: Path, modules: dict[str, Path]) -> set[str]:
    """What a file asks for when it is imported; `from package import module` asks for the module alone."""
    found: set[str] = set()
    for start, names in _import_statements(path, at_import_time=True):
        inner = {f"{start}.{name}" for name in names} & modules.keys()
        found |= inner | ({start} & modules.keys() if len(inner) < max(len(names), 1) else set())
    return found


def _circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Every group of modules that reach each other: Tarjan's strongly connected components of two and more."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def test_circles_are_found_where_there_are_some() -> None:
    assert _circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_says_that_it_is_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
