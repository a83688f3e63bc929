"""What keeps the library in order: who imports whom, and functions that list what is wrong in the whole tree."""

import ast
import re
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "gmfl_lite"

PLAN = {
    "on top": """
                                               __main__   flower_app
                                             command_line   flower
     exercises    explorer    explain    distributed    gpu_check    privacy
    """,
    "what-ifs": """
     gmfl_lite
               sweep
                     plots        runner
       by_hand            theory                  result
    """,
    "the method": """
                                           evaluation
                       trainer                        methods
                        engine                            experiment
                meta_gradients          server    aggregation
    """,
    "the problem": """
                                                      models
                                                 modules
                                                federation
                     objective                 data              partition
                                              readers
    """,
    "foundations": """
                                              basics
    """,
}
"""Where every room stands: a module of the first page, a package, or `gmfl_lite`, the face. Imports only point down."""

DISTRIBUTIONS = {
    "PIL": "pillow",
    "dp_accounting": "dp-accounting",
    "IPython": "ipython",
    "yaml": "pyyaml",
}
"""What is imported by another name than it is installed by."""

_BUILTIN = {"eval", "exec", "compile", "__import__"}  # re.compile is another one
_CALLED = {"system", "popen", "Popen", "load_state_dict"}
_LOADS = re.compile(r"pickle|marshal|shelve|joblib|dill|^from \w.* import .*\bload\b")
"""Imports of what reads code along with data."""


def sources(folder: Path) -> dict[str, tuple[Path, ast.Module]]:
    """Return every module below a package's folder by its dotted name there; the face has the package's own name."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        *parents, stem = path.relative_to(folder).with_suffix("").parts
        name = ".".join(parents if stem == "__init__" else [*parents, stem]) or folder.name
        found[name] = (path, ast.parse(path.read_text(encoding="utf-8")))
    return found


def imports(folder: Path = PACKAGE) -> dict[str, set[str]]:
    """Return, for each module, the modules of the package that it imports when it runs (not only for its types)."""
    modules = sources(folder)
    graph = {}
    for name, (path, tree) in modules.items():
        graph[name] = set()
        for target in _targets(tree, path.parent.relative_to(folder).parts, folder.name):
            while target and ".".join(target) not in modules:  # a function or class: what counts is where it lies
                target = target[:-1]
            graph[name].add(".".join(target) or folder.name)
        graph[name].discard(name)
    return graph


def _targets(tree: ast.Module, home: tuple[str, ...], root: str) -> Iterator[tuple[str, ...]]:
    """Yield what a module in the folder `home` imports of its own package, as paths below the root."""
    for node in _run_nodes(tree):
        if isinstance(node, ast.Import):
            named = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [root, *home][: len(home) + 2 - node.level] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            # A name with underscores, as __version__, is a fact about the package and no module of it.
            named = [[*module, alias.name] for alias in node.names if not alias.name.startswith("__")]
        else:
            continue
        yield from (tuple(path[1:]) for path in named if path[0] == root)


def _run_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield every node but those below `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            yield from (inner for other in node.orelse for inner in (other, *_run_nodes(other)))
        else:
            yield node
            yield from _run_nodes(node)


def rooms(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return which room imports from which: a package is one room, whatever lies in it.

    >>> rooms({"a": set(), "b": {"a"}, "b.c": {"a", "b.d"}, "b.d": set()})
    {'a': set(), 'b': {'a'}}
    """
    found: dict[str, set[str]] = {}
    for name, others in graph.items():
        room = name.split(".")[0]
        found.setdefault(room, set()).update(other.split(".")[0] for other in others)
    return {room: others - {room} for room, others in found.items()}


def places() -> dict[str, tuple[float, int]]:
    """Return each room's place in the plan: how far to the right, and how many rows below the roof."""
    lines = [line for floor in PLAN.values() for line in floor.split("\n") if line.strip()]
    return {
        found[0]: ((found.start() + found.end()) / 2, row)
        for row, line in enumerate(lines)
        for found in re.finditer(r"\w+", line)
    }


def wrong_arrows(folder: Path = PACKAGE) -> list[str]:
    """Say which imports do not point down in the plan, and which go in a circle within a package."""
    graph, row = imports(folder), {room: below for room, (_, below) in places().items()}
    wrong = [f"{room} is in the plan or in the package alone" for room in sorted(row.keys() ^ rooms(graph).keys())]
    for name, others in sorted(graph.items()):
        for room, other in ((name.split(".")[0], other) for other in sorted(others)):
            below = other.split(".")[0]
            if room != below and {room, below} <= row.keys() and row[room] >= row[below]:
                wrong.append(f"{name} imports {other}, which is not below it")
            if room == "objective" and other not in ("basics", "basics.checks"):
                wrong.append(f"{name} imports {other}: it knows nothing of agents or data")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        wrong.append(f"a circle: {' imports '.join(reversed(circle.args[1]))}")
    return wrong


def hazards(folder: Path = PACKAGE) -> list[str]:
    """Say where code could run what a file or a parameter says: pickles, eval, a shell."""
    wrong = []
    for path, tree in sources(folder).values():
        where = path.relative_to(folder).as_posix()
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                wrong += [f"{where} calls {what}" for what in _hazards_of_a_call(node)]
            elif isinstance(node, ast.Import | ast.ImportFrom) and _LOADS.search(ast.unparse(node)):
                wrong.append(f"{where}: {ast.unparse(node)}")
    return wrong


def _hazards_of_a_call(node: ast.Call) -> Iterator[str]:
    called = getattr(node.func, "id", getattr(node.func, "attr", ""))
    if called in (_CALLED | _BUILTIN if isinstance(node.func, ast.Name) else _CALLED):
        yield called
    if isinstance(node.func, ast.Attribute) and called == "load" and ast.unparse(node.func) != "np.load":
        yield ast.unparse(node)
    options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    for option in ("allow_pickle", "shell"):
        if options.get(option, "False") != "False":
            yield f"{called}({option}={options[option]})"


def foreign(folder: Path = PACKAGE) -> dict[str, set[str]]:
    """Return, for each module, the absolute names that it imports from outside the package, `matplotlib.figure`."""
    found = {}
    for name, (_, tree) in sources(folder).items():
        nodes = list(ast.walk(tree))
        named = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        named |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
        found[name] = {other for other in named if other.split(".")[0] != folder.name}
    return found


def undeclared(folder: Path, core: set[str], extras: dict[str, set[str]]) -> list[str]:
    """Say which modules import what nobody has asked pip for.

    core : names of distributions that are always installed.
    extras : room -> names of those that it may need besides; nothing else imports them.
    """
    wrong = []
    for name, others in foreign(folder).items():
        packages = {other.split(".")[0] for other in others} - set(sys.stdlib_module_names)
        asked = core | extras.get(name.split(".")[0], set())
        for package in sorted(packages):
            if DISTRIBUTIONS.get(package, package) not in asked:
                wrong.append(f"{name} imports {package}")
    return wrong
