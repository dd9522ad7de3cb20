"""What the pages say is true: their code runs, their output is what comes, their links lead on.

- Every ```` ```python ```` block runs by itself in an empty directory; a ```` ```text output ````
  block after it is what it prints. `slow` leaves it to the slow suite. With `file=PATH` it is an
  excerpt of that file instead; with `norun` it needs what a test has not (a download, a GPU), and
  only its imports are checked.
- Every ```` ```console run ```` block is run, `$ ` line by `$ ` line, and compared with what is
  shown under each; `...` stands for anything. `run slow` leaves it to the slow suite. Other console
  blocks are only read: their verbs, options and make targets must exist.

`UPDATE_DOCS=1` writes what really comes into the pages, where the two differ.
"""

import ast
import doctest
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from trialgym import registry
from trialgym.cli import VERBS, main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "llms.txt")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
UPDATE = bool(os.environ.get("UPDATE_DOCS"))


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    kind: str
    marks: tuple[str, ...]
    body: str
    output: str | None
    """Body of the `text output` block right after it."""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


FENCE = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    found = list(FENCE.finditer(text))
    for here, after in zip_longest(found, found[1:]):
        output = None
        if after and after[1] == "text" and after[2].split() == ["output"]:
            output = after[3] if not text[here.end() : after.start()].strip() else None
        line = text.count("\n", 0, here.start()) + 1
        yield Block(page, line, here[1], tuple(here[2].split()), here[3], output)


BLOCKS = [block for page in PAGES if page.suffix == ".md" for block in blocks(page)]


def marked(chosen: list[Block]) -> list[Any]:
    """Pass a block's `slow` on to pytest."""
    return [pytest.param(b, marks=[pytest.mark.slow] if "slow" in b.marks else []) for b in chosen]


CODE = [b for b in BLOCKS if b.kind == "python" and b.marks in ((), ("slow",))]
UNRUN = [b for b in BLOCKS if b.kind == "python" and b.marks == ("norun",)]
EXCERPTS = [
    b
    for b in BLOCKS
    if b.kind in ("python", "toml") and b.marks and b not in UNRUN and b not in CODE
]
CONSOLE = [b for b in BLOCKS if b.kind in ("console", "bash", "shell", "sh")]


def environment() -> dict[str, str]:
    """A plain terminal, with the commands of this Python first."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}


def run(command: list[str], directory: Path) -> str:
    ran = subprocess.run(
        command,
        cwd=directory,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, f"{command[-1]}\n{ran.stdout}"
    return ran.stdout


def compare(block: Block, above: str, want: str, got: str) -> None:
    """Compare output with what a page shows under the line `above`, or write it there."""
    got = "".join(f"{line.rstrip()}\n" for line in got.splitlines())
    if doctest.OutputChecker().check_output(want, got, doctest.ELLIPSIS):
        return
    if not UPDATE:
        pytest.fail(f"{block} shows\n{want}\nand this comes\n{got}\n(UPDATE_DOCS=1 writes it)")
    text = block.page.read_text(encoding="utf-8")
    at = text.index(above, text.index(block.body)) + len(above)
    block.page.write_text(text[:at] + got + text[at + len(want) :], encoding="utf-8")


@pytest.mark.parametrize("block", marked(CODE), ids=str)
def test_a_python_block_runs_and_prints_what_the_page_shows(block: Block, tmp_path: Path) -> None:
    script = tmp_path / "block.py"
    script.write_text(block.body, encoding="utf-8")
    directory = tmp_path / "empty"
    directory.mkdir()
    got = run([sys.executable, "-W", "error", str(script)], directory)
    if block.output is not None:
        compare(block, "```text output\n", block.output, got)


@pytest.mark.parametrize("block", UNRUN, ids=str)
def test_a_block_that_cannot_run_here_imports_what_exists(block: Block) -> None:
    for node in ast.walk(ast.parse(block.body)):
        if isinstance(node, ast.ImportFrom) and node.module:
            module = import_module(node.module)
            assert [a.name for a in node.names if not hasattr(module, a.name)] == []


@pytest.mark.parametrize("block", EXCERPTS, ids=str)
def test_an_excerpt_is_what_its_file_says(block: Block) -> None:
    (mark,) = block.marks
    assert mark.startswith("file="), f"{block}: `{mark}` means nothing"
    file = ROOT / mark.removeprefix("file=")
    # Indentation and blank lines are the page's own; `# ...` stands for lines left out.
    position, text = 0, squeezed(file.read_text(encoding="utf-8"))
    for part in re.split(r"^ *# \.\.\.\n", block.body, flags=re.MULTILINE):
        position = text.find(squeezed(part), position)
        assert position >= 0, f"{block}: not in {file.relative_to(ROOT)}:\n{part}"


def squeezed(text: str) -> str:
    return "\n".join(line.strip() for line in text.splitlines() if line.strip()) + "\n"


def steps(block: Block) -> list[tuple[str, str]]:
    """Commands of a console block, each with what is shown under it."""
    found: list[tuple[str, str]] = []
    for line in block.body.splitlines(keepends=True):
        if line.startswith("$ "):
            found.append((line[2:].rstrip("\n"), ""))
        elif found and found[-1][0].endswith("\\"):
            found[-1] = (f"{found[-1][0][:-1]} {line.strip()}", "")
        elif found:
            found[-1] = (found[-1][0], found[-1][1] + line)
        else:
            pytest.fail(f"{block}: begin each command with `$ `, or what is run is not clear")
    return found


@pytest.mark.parametrize("block", marked([b for b in CONSOLE if "run" in b.marks]), ids=str)
def test_a_console_block_prints_what_the_page_shows(block: Block, tmp_path: Path) -> None:
    for command, want in steps(block):
        got = run(["bash", "-euc", command], tmp_path)
        if want:
            compare(block, f"$ {command}\n", want, got)


def commands(block: Block) -> Iterator[list[str]]:
    for line, _ in steps(block):
        for part in re.split(r"&&|\||;", line):
            words = shlex.split(part, comments=True)
            if words:
                yield words


@pytest.mark.parametrize("block", CONSOLE, ids=str)
def test_a_console_block_names_only_what_exists(block: Block) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    for words in commands(block):
        if words[0] == "make":
            named = [word for word in words[1:] if "=" not in word]
            assert set(named) <= set(targets), words
        if words[0] == "trialgym" and len(words) > 1 and not words[1].startswith("-"):
            assert words[1] in VERBS, words
            check_options(words[1:])


@cache
def options(*words: str) -> set[str]:
    """Every option that the help of a verb, or of a verb and an algorithm, names."""
    with redirect_stdout(io.StringIO()) as shown:
        assert main([*words, "--help"]) == 0
    return set(re.findall(r"--[a-z_.]+", shown.getvalue())) | {"--help", "--version"}


def check_options(words: list[str]) -> None:
    algorithm = [words[1]] if words[0] == "train" and not words[1].startswith("-") else []
    known = options(words[0], *algorithm)
    for word in words[1:]:
        option = word.partition("=")[0]
        if option.startswith("--") and option not in known:
            assert option.partition(".")[0] in known, f"`{option}` is no option of {words[0]}"


# Nothing is left out.


def test_make_bench_names_benchmarks_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (names,) = re.findall(r"^BENCHES \?= (.+)$", makefile, re.MULTILINE)
    assert [name for name in names.split() if not (ROOT / f"benchmarks/{name}.py").exists()] == []


def rows(page: str) -> set[str]:
    """What the first cells of a page's tables name."""
    text = (ROOT / page).read_text(encoding="utf-8")
    cells = re.findall(r"^\| *(`[^|]*?) *\|", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


@pytest.mark.parametrize("kind", registry.KINDS)
def test_readme_has_a_row_for_everything_registered(kind: str) -> None:
    assert set(registry.KINDS[kind]) - rows("README.md") == set()


def test_readme_has_a_row_for_every_verb() -> None:
    assert {f"trialgym {verb}" for verb in VERBS} - rows("README.md") == set()


def test_readme_starts_with_the_two_commands() -> None:
    first = "\n".join((ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:25])
    assert "$ make demo" in first
    assert "$ make test" in first


def test_the_index_lists_every_page() -> None:
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in PAGES if "docs" in page.parts}
    linked = {target for target, _ in links(ROOT / "docs" / "index.md")}
    assert pages - linked - {"index.md"} == set()


def test_llms_txt_lists_every_page() -> None:
    linked = {target for target, _ in links(ROOT / "llms.txt")}
    assert {page.relative_to(ROOT).as_posix() for page in PAGES} - linked - {"llms.txt"} == set()


# Links.


def links(page: Path) -> list[tuple[str, str]]:
    """File and anchor of every link that stays within the repository."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    text = re.sub(r"`[^`\n]*`", "", text)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    inside = [target for target in targets if not re.match(r"[a-z]+:", target)]
    return [(target.partition("#")[0], target.partition("#")[2]) for target in inside]


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ +(.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.M)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    lost = []
    for file, anchor in links(page):
        target = (page.parent / file) if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(f"{file}#{anchor}".rstrip("#"))
    assert lost == []
