"""The rules of the house: who may import whom, how big things get, and what is never written."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import trialgym
from trialgym import errors, registry

ROOT = Path(__file__).parents[1]
HALL = "trialgym"
ROOMS = ("agents", "algorithms", "benchmarks", "envs")
PRODUCT = [
    path.relative_to(ROOT)
    for part in (HALL, *ROOMS)
    for path in sorted((ROOT / part).rglob("*.py"))
]
OTHERS = [
    path.relative_to(ROOT) for part in ("tests", "examples") for path in (ROOT / part).rglob("*.py")
]
HEAVY = ("torch", "transformers", "datasets", "trl", "peft", "accelerate", "pandas", "pyarrow")

Finding = tuple[int, str]
Check = Callable[[ast.AST, Path], Iterator[Finding]]


# The checks, as functions over a syntax tree, so that planted faults can show that they see.


def imported(node: ast.AST) -> list[str]:
    """Names that an absolute import statement asks for."""
    match node:
        case ast.Import(names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module, names, level=0):
            return [f"{module}.{alias.name}" for alias in names]
    return []


def foreign_imports(tree: ast.AST, file: Path) -> Iterator[Finding]:
    """Imports of a room, also of the file's own by its absolute name, and climbs out of it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level >= len(file.parts):
            yield node.lineno, f"{'.' * node.level}{node.module or ''} climbs out of its room"
        for name in imported(node):
            if name.removeprefix(f"{HALL}.").split(".")[0] in ROOMS:
                yield node.lineno, f"import of {name}"
        if isinstance(node, ast.ImportFrom) and file.parts[0] == HALL and node.level:
            names = [f"{node.module or ''}.{alias.name}".lstrip(".") for alias in node.names]
            for name in names:
                if name.split(".")[0] in ROOMS:
                    yield node.lineno, f"import of .{name}"


def dotted(node: ast.AST) -> str:
    """Give `a.b.c` of an attribute chain, and nothing of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (left := dotted(node.value)):
        return f"{left}.{node.attr}"
    return ""


def modules(tree: ast.AST) -> dict[str, str]:
    """Names that stand for modules here: `np` for `numpy`."""
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Import))
    return {a.asname or a.name.split(".")[0]: a.name for node in nodes for a in node.names}


# Reading and restoring the shared generators is how others' use of them is found out and undone.
BANNED_CALLS = re.compile(
    r"(builtins\.)?(eval|exec|__import__)|os\.(system|popen)"
    r"|numpy\.random\.(?!(default_rng|Generator|SeedSequence|PCG64|get_state|set_state)$)\w+"
    r"|random\.(?!(Random|getstate|setstate)$)\w+"
)
BANNED_FROM = re.compile(r"random\.(?!Random$)\w+|os\.(system|popen)|numpy\.random\.(seed|rand\w*)")


def unsafe_calls(tree: ast.AST, file: Path) -> Iterator[Finding]:
    """Text run as code, a shell, or a random generator that everybody shares."""
    known = modules(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, dot, rest = dotted(node.func).partition(".")
            # A variable may be called `random`; only the module of that name is shared.
            name = known.get(first, "" if dot else first) + dot + rest
            if BANNED_CALLS.fullmatch(name):
                yield node.lineno, f"call of {name}"
            for keyword in node.keywords:
                constant = isinstance(keyword.value, ast.Constant) and not keyword.value.value
                if keyword.arg == "shell" and not constant:
                    yield node.lineno, f"shell={ast.unparse(keyword.value)}"
        if isinstance(node, ast.ImportFrom):
            for name in imported(node):
                if BANNED_FROM.fullmatch(name):
                    yield node.lineno, f"import of {name}"


CHECKS: tuple[Check, ...] = (foreign_imports, unsafe_calls)


@pytest.mark.parametrize("file", PRODUCT, ids=str)
def test_a_file_keeps_the_rules(file: Path) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    found = [f"{file}:{line}: {what}" for check in CHECKS for line, what in check(tree, file)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("check", "file", "source"),
    [
        (foreign_imports, "envs/a.py", "from trialgym.agents import scripted"),
        (foreign_imports, "envs/a.py", "from trialgym.envs.b import B"),
        (foreign_imports, "envs/a.py", "from trialgym import agents"),
        (foreign_imports, "envs/a.py", "import trialgym.algorithms.bc"),
        (foreign_imports, "envs/a.py", "def f():\n    import agents.scripted"),
        (foreign_imports, "envs/a.py", "from ..agents import scripted"),
        (foreign_imports, "envs/a/b.py", "from ...agents import scripted"),
        (foreign_imports, "trialgym/a.py", "from trialgym.envs.household import Household"),
        (foreign_imports, "trialgym/a.py", "from .envs.household import Household"),
        (foreign_imports, "trialgym/a.py", "from . import envs"),
        (unsafe_calls, "envs/a.py", "eval('1')"),
        (unsafe_calls, "envs/a.py", "import builtins\nbuiltins.exec('1')"),
        (unsafe_calls, "envs/a.py", "run('ls', shell=True)"),
        (unsafe_calls, "envs/a.py", "run('ls', shell=flag)"),
        (unsafe_calls, "envs/a.py", "import os\nos.system('ls')"),
        (unsafe_calls, "envs/a.py", "import random\nrandom.shuffle(x)"),
        (unsafe_calls, "envs/a.py", "from random import choice"),
        (unsafe_calls, "envs/a.py", "import numpy as np\nnp.random.seed(0)"),
        (unsafe_calls, "envs/a.py", "import numpy\nnumpy.random.randint(3)"),
    ],
)
def test_a_planted_fault_is_seen(check: Check, file: str, source: str) -> None:
    assert list(check(ast.parse(source), Path(file)))


@pytest.mark.parametrize(
    "source",
    [
        "from trialgym.core import TextEnv",
        "from .base import Base",
        "from gymnasium import envs",
        "import random\nrandom.Random(3).choice([1])",
        "from random import Random",
        "import numpy as np\nnp.random.default_rng(3).integers(4)",
        "model.eval()",
        "run(['ls'], shell=False)",
        "import random\nrandom.setstate(random.getstate())",
        "def draw(random: Random) -> int:\n    return random.randint(1, 6)",
    ],
)
def test_what_is_allowed_passes(source: str) -> None:
    tree = ast.parse(source)
    assert not [finding for check in CHECKS for finding in check(tree, Path("envs/a.py"))]


def test_the_hall_has_under_ten_files() -> None:
    assert len([file for file in PRODUCT if file.parts[0] == HALL]) < 10


@pytest.mark.parametrize("file", [*PRODUCT, *sorted(OTHERS)], ids=str)
def test_a_file_stays_readable(file: Path) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    # Tests are tables of cases rather than things to keep in mind at once.
    assert text.count("\n") <= (700 if file.parts[0] == "tests" else 500)
    # Written in two halves, or this line would find itself.
    assert not re.search(r"#.*\b(TO" r"DO|FIX" r"ME|X" r"XX)\b", text)
    assert file.name == "__init__.py" or ast.get_docstring(ast.parse(text)), "say what it is for"


# README's annotated tree.


def repository_files() -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout, so there is no list of the repository's files")
    return [Path(line) for line in listed.stdout.splitlines() if (ROOT / line).exists()]


def entries() -> set[str]:
    """Root entries, and what lies directly in the hall and the rooms; folders end with `/`."""
    found = set()
    for path in repository_files():
        deep = len(path.parts) > 1
        found.add(path.parts[0] + "/" * deep)
        if deep and path.parts[0] in (HALL, *ROOMS):
            marker = path.name == "py.typed" or (
                path.name == "__init__.py" and path.parts[0] != HALL
            )
            if not (marker and len(path.parts) == 2):
                found.add("/".join(path.parts[:2]) + "/" * (len(path.parts) > 2))
    return found


def tree_of_readme() -> dict[str, str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```text tree\n(.*?)```", text, re.DOTALL)
    rows, folder = {}, ""
    for line in block.splitlines():
        indent, name, words = re.fullmatch(r"( *)(\S+) *(.*)", line).groups()  # type: ignore[union-attr]
        folder = folder if indent else name
        path = folder + name if indent else name
        assert path not in rows, f"{path} is listed twice"
        rows[path] = words
    return rows


def test_readme_lists_every_file_and_nothing_else() -> None:
    rows, there = tree_of_readme(), entries()
    assert sorted(there - set(rows)) == [], "not in README's tree"
    assert sorted(set(rows) - there) == [], "in README's tree, and not there"


def test_readme_says_what_every_file_is_for() -> None:
    assert [path for path, words in tree_of_readme().items() if len(words) < 8] == []


# What loads what.


def modules_after(code: str) -> set[str]:
    script = f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return {name.split(".")[0] for name in json.loads(ran.stderr.splitlines()[-1])}


@pytest.mark.parametrize(
    "code",
    [
        "import trialgym",
        "import trialgym.rollout, trialgym.store, trialgym.cli",
        "sys.argv = ['trialgym', '--help']\nfrom trialgym.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end",
        "import trialgym\ntrialgym.make('trialgym/Household-v0').reset(seed=0)",
    ],
    ids=["import", "whole hall", "help", "make"],
)
def test_the_core_loads_no_learning_library(code: str) -> None:
    assert modules_after(code) & set(HEAVY) == set()


# Names.


def test_exported_names_are_sorted_and_exist() -> None:
    assert list(trialgym.__all__) == sorted(set(trialgym.__all__))
    assert [name for name in trialgym.__all__ if not hasattr(trialgym, name)] == []


@pytest.mark.parametrize(
    ("kind", "place"),
    [(kind, place) for kind, rows in registry.KINDS.items() for place in rows.values()],
)
def test_a_registry_row_names_a_class_of_the_right_room(kind: str, place: str) -> None:
    module, _, name = place.partition(":")
    hall, *path = module.split(".")
    assert (hall, path[0]) == (HALL, f"{kind}s")
    file = ROOT.joinpath(*path)
    source = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    top = ast.parse(source.read_text(encoding="utf-8")).body
    declared = {node.name for node in top if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    passed_on = {a.asname or a.name for n in top if isinstance(n, ast.ImportFrom) for a in n.names}
    assert name in declared | passed_on


def signals() -> list[tuple[Path, str, set[str]]]:
    """Exceptions declared outside the error tree: file, name and bases."""
    found = []
    for file in PRODUCT:
        for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and file != Path(HALL, "errors.py"):
                bases = {dotted(base).rpartition(".")[2] for base in node.bases}
                if bases & set(vars(errors)) or any(
                    re.search(r"(Error|Exception)$", b) for b in bases
                ):
                    found.append((file, node.name, bases))
    return found


def caught(room: str) -> set[str]:
    trees = (
        ast.parse((ROOT / f).read_text(encoding="utf-8")) for f in PRODUCT if f.parts[0] == room
    )
    handlers = (n.type for t in trees for n in ast.walk(t) if isinstance(n, ast.ExceptHandler))
    return {dotted(inner) for kind in handlers if kind for inner in ast.walk(kind)}


CAUGHT_ELSEWHERE = {"Refused": "sqlite3, which calls the function that raises it"}


def test_an_exception_outside_the_error_tree_never_leaves_its_room() -> None:
    """What a user may see is declared in `errors.py`; the rest is caught where it is raised."""
    for file, name, bases in signals():
        assert not bases & set(vars(errors)), f"{file}: {name} belongs into trialgym/errors.py"
        assert name in caught(file.parts[0]) | set(CAUGHT_ELSEWHERE), (
            f"{file}: nothing in its room catches {name}"
        )


def test_the_error_tree_of_the_docstring_is_the_real_one() -> None:
    drawn: dict[str, tuple[str, str]] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        row = re.match(r"^ {4}([│ ├└─]*)([A-Z]\w+)(?: \((\w+)\))?", line)
        if row:
            depth, name, also = len(row[1]) // 4, row[2], row[3] or ""
            above = [*above[:depth], name]
            drawn[name] = (above[depth - 1] if depth else "Exception", also)
    real = {
        name: (value.__bases__[0].__name__, "".join(base.__name__ for base in value.__bases__[1:]))
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert drawn == real
