"""Draws a finished run as one static page: learning curves, the table, trajectories side by side.

The page asks for nothing from anywhere and runs no script; whatever a model or an environment
wrote is escaped, and the page's own policy forbids the rest.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

from trialgym.cli import printable
from trialgym.errors import BadFile
from trialgym.records import Trajectory, Turn
from trialgym.store import Store, open_source

from .report_style import PAGE, STYLE

SHOWN_PAIRS = 3
"""Tasks of each panel whose first and last trajectories are shown."""
SHOWN_TURNS = 40
SHOWN_CHARACTERS = 1500
"""Longest observation that is shown in full."""
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 560, 300, 48, 24, 20, 44


@dataclass(frozen=True, slots=True)
class Result:
    """One row of `results.json`: a policy on a panel of held-out tasks."""

    policy: str
    """`bc`, or a method and its round, such as `eto-2`."""
    panel: str
    episodes: int
    success: float
    low: float
    high: float
    seed: int
    env_steps: int
    train_tokens: int
    cpu_seconds: float

    @property
    def method(self) -> str:
        return re.sub(r"-\d+$", "", self.policy)

    @property
    def round(self) -> int:
        found = re.search(r"-(\d+)$", self.policy)
        return int(found[1]) if found else 0


def write_report(directory: Path) -> Path:
    """Write `report.html` into a run directory.

    Raises:
        BadFile: `results.json` is missing or has a row that cannot be read.
    """
    results = read_results(directory / "results.json")
    panels = list(dict.fromkeys(row.panel for row in results))
    body = [
        f"<h1>{text(directory.resolve().name)}</h1>",
        *_headlines(results, panels),
        "<h2>Success on held-out tasks</h2>",
        "<p>Each point is a policy on the same tasks; the bar is its 95 % interval.</p>",
        '<div class="charts">',
        *(curve(panel, [row for row in results if row.panel == panel]) for panel in panels),
        "</div>",
        "<h2>Results</h2>",
        _table(results),
        *_comparisons(directory, panels),
        *_configuration(directory),
    ]
    page = PAGE.format(title=text(directory.resolve().name), style=STYLE, body="\n".join(body))
    path = directory / "report.html"
    partial = directory / "report.html.partial"
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)
    return path


def read_results(path: Path) -> list[Result]:
    """Read `results.json`, checking every field.

    Raises:
        BadFile: names the row and the field.
    """
    if not path.is_file():
        raise BadFile(path, "no such file; wanted a run directory whose loop has evaluated")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadFile(path, f"not JSON ({error})") from error
    if not isinstance(rows, list) or not rows:
        raise BadFile(path, "wanted a list of at least one row")
    return [_result(path, number, row) for number, row in enumerate(rows)]


def _result(path: Path, number: int, row: Any) -> Result:
    values: dict[str, Any] = {}
    for field in fields(Result):
        if not isinstance(row, dict) or field.name not in row:
            raise BadFile(path, f"missing in row {number}", field=field.name)
        kinds = (int, float) if field.type is float else (field.type,)
        if type(row[field.name]) not in kinds:
            raise BadFile(path, f"{row[field.name]!r} in row {number}", field=field.name)
        values[field.name] = row[field.name]
    result = Result(**values)
    ordered = (0, result.low, result.success, result.high, 1)
    if not all(a <= b + 1e-9 for a, b in pairwise(ordered)):  # an interval may be a rounding off
        raise BadFile(path, f"row {number} has an interval outside its rate", field="success")
    return result


def text(value: object) -> str:
    """Make any text safe to stand in the page, in an attribute too."""
    return escape(printable(str(value)), quote=True)


def _headlines(results: Sequence[Result], panels: Sequence[str]) -> Iterator[str]:
    for panel in panels:
        for _, points in _lines([row for row in results if row.panel == panel]):
            first, last = points[0], points[-1]
            gain = 100 * (last.success - first.success)
            yield (
                f'<p class="headline"><b>{text(panel)}</b>: {first.success:.1%} with '
                f"{text(first.policy)}, {last.success:.1%} with {text(last.policy)} "
                f"({gain:+.1f} points, {last.episodes} tasks, seed {last.seed})</p>"
            )


# The learning curve.


def curve(panel: str, rows: Sequence[Result]) -> str:
    """Draw success over rounds as SVG: a line for each method and seed, a bar for each interval."""
    last = max([row.round for row in rows] + [1])
    lines = list(_lines(rows))
    label = f"Success on {panel} after each round"
    parts = [
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(label)}">',
        *_axes(last),
    ]
    for number, (_, points) in enumerate(lines):
        # Side by side by a few pixels, or equal values would hide one another.
        shift = 5.0 * (number - (len(lines) - 1) / 2)
        parts.append(_line([(_x(row.round, last) + shift, row) for row in points], number))
    parts.append("</svg>")
    legend = "".join(
        f'<span class="c{number % 6}">{text(name)}</span>' for number, (name, _) in enumerate(lines)
    )
    parts.append(f'<figcaption>{text(panel)} <span class="legend">{legend}</span></figcaption>')
    return "\n".join([*parts, "</figure>"])


def _lines(rows: Sequence[Result]) -> Iterator[tuple[str, list[Result]]]:
    """Join each method's rounds; all of them begin at the policy that was only cloned."""
    seeds = list(dict.fromkeys(row.seed for row in rows))
    methods = list(dict.fromkeys(row.method for row in rows if row.round))
    for seed in seeds:
        ours = [row for row in rows if row.seed == seed]
        start = [row for row in ours if not row.round]
        for method in methods or list(dict.fromkeys(row.method for row in start)):
            points = [row for row in ours if row.round and row.method == method]
            if points or not methods:
                name = method if len(seeds) == 1 else f"{method}, seed {seed}"
                yield name, sorted([*start[:1], *points], key=lambda row: row.round)


def _x(round_: int, last: int) -> float:
    return LEFT + 30 + (WIDTH - LEFT - RIGHT - 60) * round_ / last


def _y(rate: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - rate)


def _axes(last: int) -> Iterator[str]:
    for percent in range(0, 101, 20):
        y = _y(percent / 100)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        place = f'x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end"'
        yield f'<text class="tick" {place}>{percent} %</text>'
    for round_ in range(0, last + 1, max(1, last // 10)):
        x = _x(round_, last)
        yield (
            f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" '
            f'text-anchor="middle">{round_}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield f'<text class="tick" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">round</text>'


def _line(points: Sequence[tuple[float, Result]], number: int) -> str:
    path = " ".join(f"{x:.1f},{_y(row.success):.1f}" for x, row in points)
    parts = [f'<g class="c{number % 6}"><polyline points="{path}"/>']
    for x, row in points:
        low, high, middle = _y(row.low), _y(row.high), _y(row.success)
        told = f"{row.policy}: {row.success:.1%} ({row.low:.1%} to {row.high:.1%})"
        parts += [
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>',
            f'<line x1="{x - 4:.1f}" x2="{x + 4:.1f}" y1="{low:.1f}" y2="{low:.1f}"/>',
            f'<line x1="{x - 4:.1f}" x2="{x + 4:.1f}" y1="{high:.1f}" y2="{high:.1f}"/>',
            f'<circle cx="{x:.1f}" cy="{middle:.1f}" r="4"><title>{text(told)}</title></circle>',
        ]
    return "".join([*parts, "</g>"])


# The table.


def _table(results: Iterable[Result]) -> str:
    heads = [
        "policy", "panel", "tasks", "success", "95 % interval", "seed", "environment steps",
        "trained tokens", "CPU seconds",
    ]  # fmt: skip
    rows = [
        (
            row.policy, row.panel, row.episodes, f"{row.success:.1%}",
            f"{row.low:.1%} to {row.high:.1%}", row.seed, f"{row.env_steps:,}",
            f"{row.train_tokens:,}", f"{row.cpu_seconds:,.1f}",
        )
        for row in results
    ]  # fmt: skip
    head = "".join(f"<th>{text(name)}</th>" for name in heads)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table><tr>{head}</tr>\n{body}</table></div>'


# Trajectories side by side.


def _comparisons(directory: Path, panels: Iterable[str]) -> Iterator[str]:
    if not (directory / "trajectories.sqlite").is_file():
        return
    with open_source(str(directory)) as store:
        found = [pair for panel in panels for pair in _failed_then_solved(store, panel)]
    if found:
        yield "<h2>Failed before, solved after</h2>"
    for first, last in found:
        yield f"<h3>{text(last.task_id)}</h3><p>{text(_short(last.instruction))}</p>"
        yield f'<div class="pair">{_episode(first)}{_episode(last)}</div>'


def _failed_then_solved(store: Store, panel: str) -> Iterator[tuple[Trajectory, Trajectory]]:
    """Choose tasks that the first policy failed and the last one solved, the shortest first."""
    ends = _first_and_last_group(store.groups(), panel)
    if ends is None:
        return
    before, after = ({row["task_id"]: row for row in store.summaries(group)} for group in ends)
    mended = [
        task
        for task, row in after.items()
        if row["success"] and task in before and _failed(before[task])
    ]
    mended.sort(key=lambda task: (before[task]["turns"] + after[task]["turns"], task))
    for task in mended[:SHOWN_PAIRS]:
        (first,) = store.trajectories(ends[0], id=before[task]["id"])
        (last,) = store.trajectories(ends[1], id=after[task]["id"])
        yield first, last


def _failed(row: dict[str, Any]) -> bool:
    return not row["success"] and row["stop"] != "fault"


def _first_and_last_group(groups: Iterable[str], panel: str) -> tuple[str, str] | None:
    rounds = {}
    for group in groups:
        found = re.fullmatch(r"evaluate/(\d+)/(.*)", group, re.DOTALL)
        if found and found[2] == panel:
            rounds[int(found[1])] = group
    return (rounds[min(rounds)], rounds[max(rounds)]) if len(rounds) > 1 else None


def _episode(episode: Trajectory) -> str:
    verdict = "solved" if episode.success else "failed"
    name = f"{episode.policy.name}, round {episode.policy.iteration}"
    parts = [
        f'<section class="{verdict}"><h4>{text(name)}: {verdict} '
        f"({len(episode.turns)} turns, score {episode.score:.2f})</h4>"
    ]
    parts += [_turn(turn) for turn in episode.turns[:SHOWN_TURNS]]
    if len(episode.turns) > SHOWN_TURNS:
        parts.append(f"<p>and {len(episode.turns) - SHOWN_TURNS} more turns</p>")
    parts.append(f"<pre>{text(_short(episode.final_observation))}</pre></section>")
    return "\n".join(parts)


def _turn(turn: Turn) -> str:
    thought = f"<p><i>{text(_short(turn.thought))}</i></p>" if turn.thought else ""
    mark = "" if turn.valid else ' class="invalid" title="invalid"'
    action = text(_short(turn.action or turn.text or "(no action)"))
    return f"<pre>{text(_short(turn.observation))}</pre>{thought}<p><code{mark}>{action}</code></p>"


def _short(value: str) -> str:
    if len(value) <= SHOWN_CHARACTERS:
        return value
    return f"{value[:SHOWN_CHARACTERS]} [{len(value) - SHOWN_CHARACTERS} more characters]"


def _configuration(directory: Path) -> Iterator[str]:
    for name in ("config.json", "manifest.json"):
        path = directory / name
        if path.is_file():
            content = path.read_text(encoding="utf-8", errors="replace")
            yield f"<details><summary>{name}</summary><pre>{text(content)}</pre></details>"
