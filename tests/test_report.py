"""The page of a run: true to its files, and safe whatever a model or an environment wrote."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from trialgym.algorithms.report import write_report
from trialgym.errors import BadFile
from trialgym.records import PolicyInfo, StopReason, Trajectory, Turn, wilson
from trialgym.store import Store

HOSTILE = (
    '<script>alert(1)</script><img src=x onerror="alert(2)">"><svg onload=alert(3)>'
    "</pre></section>{title}%s\x1b[31mred\x1b[0m\x00\x07\u202egnp.exe&amp;"
)
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, in order, and text."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(source)
        self.close()
        assert self.open == [], "unclosed elements"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def episode(
    task: int, round_: int, panel: str, success: bool, *, hostile: str = "", fault: bool = False
) -> Trajectory:
    outcome = StopReason.SUCCESS if success else StopReason.FAILURE
    turns = tuple(
        Turn(f"seen {i}{hostile}", f"action {i}{hostile}", thought=hostile, valid=i != 1)
        for i in range(2 + task)
    )
    return Trajectory(
        env="trialgym/Household-v0",
        task_id=f"household/{panel}/{task:06d}",
        split=panel,
        instruction=f"put thing {task} away{hostile}",
        turns=turns,
        final_observation=f"the end{hostile}",
        score=float(success),
        success=success,
        stop=StopReason.FAULT if fault else outcome,
        policy=PolicyInfo(f"ranker{hostile}", iteration=round_),
        group=f"evaluate/{round_}/{panel}",
    )


def result(policy: str, panel: str, wins: int, of: int = 10, seed: int = 0) -> dict[str, object]:
    low, high = wilson(wins, of)
    return {
        "policy": policy, "panel": panel, "episodes": of, "success": wins / of, "low": low,
        "high": high, "seed": seed, "env_steps": 1234, "train_tokens": 5678, "cpu_seconds": 9.5,
    }  # fmt: skip


def write_run(directory: Path, results: object, episodes: list[Trajectory]) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text('{"preset": "laptop", "note": "</script><b>"}')
    (directory / "results.json").write_text(json.dumps(results))
    # The loop names its run in the store; the page must find it whatever it is called.
    with Store(directory / "trajectories.sqlite", run="laptop") as store:
        store.add(episodes)
    return directory


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two rounds on two panels: task 0 stays solved, 1 to 5 are mended, 6 gets lost."""
    episodes = [
        episode(task, round_, panel, {0: True, 6: not round_}.get(task, round_ == 2))
        for panel in ("test", "test_unseen")
        for round_ in (0, 1, 2)
        for task in range(7)
    ]
    results = [
        result(policy, panel, wins)
        for policy, wins in (("bc", 3), ("eto-1", 5), ("eto-2", 8), ("rft-1", 4))
        for panel in ("test", "test_unseen")
    ]
    return write_run(tmp_path / "laptop", results, episodes)


def page_of(run: Path) -> Page:
    path = write_report(run)
    assert path == run / "report.html"
    assert not list(run.glob("*.partial"))
    return Page(path.read_text(encoding="utf-8"))


def test_a_curve_for_each_panel_has_a_point_for_each_policy(run: Path) -> None:
    page = page_of(run)
    assert [svg["aria-label"] for svg in page.all("svg")] == [
        "Success on test after each round",
        "Success on test_unseen after each round",
    ]
    # eto: bc and two rounds; rft: the same bc and one round.
    assert [len(line["points"].split()) for line in page.all("polyline")] == [3, 2] * 2


def test_points_and_bars_stand_where_the_numbers_say(run: Path) -> None:
    page = page_of(run)
    grid = [line for line in page.all("line") if line.get("class") == "grid"][:6]
    bottom, top = float(grid[0]["y1"]), float(grid[-1]["y1"])

    def rate(y: str) -> float:
        return (bottom - float(y)) / (bottom - top)

    points = page.all("polyline")[0]["points"].split()
    assert [rate(point.split(",")[1]) for point in points] == pytest.approx(
        [0.3, 0.5, 0.8], abs=2e-3
    )
    bar = next(line for line in page.all("line") if line["x1"] == line["x2"])
    assert (rate(bar["y1"]), rate(bar["y2"])) == pytest.approx(wilson(3, 10), abs=2e-3)


def test_the_table_has_every_row_of_the_results(run: Path) -> None:
    page = page_of(run)
    assert len(page.all("td")) == 8 * 9
    assert "80.0%" in page.text


def test_the_first_lines_tell_what_each_method_gained(run: Path) -> None:
    told = page_of(run).text
    assert "test: 30.0% with bc, 80.0% with eto-2 (+50.0 points, 10 tasks, seed 0)" in told
    assert "test: 30.0% with bc, 40.0% with rft-1 (+10.0 points, 10 tasks, seed 0)" in told


def test_only_tasks_that_were_failed_and_then_solved_are_shown(run: Path) -> None:
    page = page_of(run)
    for panel in ("test", "test_unseen"):
        for task in (1, 2, 3):
            assert f"household/{panel}/{task:06d}" in page.text
        for task in (0, 4, 5, 6):  # solved before, beyond the first three, lost
            assert f"household/{panel}/{task:06d}" not in page.text
    assert [section["class"] for section in page.all("section")] == ["failed", "solved"] * 6
    assert "ranker, round 0: failed" in page.text
    assert "ranker, round 2: solved" in page.text


def test_invalid_actions_are_marked(run: Path) -> None:
    marked = [code for code in page_of(run).all("code") if code.get("class") == "invalid"]
    assert len(marked) == 12


def test_a_fault_is_no_failure(tmp_path: Path) -> None:
    episodes = [
        episode(1, 0, "test", False, fault=True),
        episode(1, 1, "test", True),
    ]
    run = write_run(tmp_path / "run", [result("bc", "test", 1)], episodes)
    assert page_of(run).all("section") == []


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    panel = "test<b>"
    episodes = [
        episode(1, 0, panel, False, hostile=HOSTILE),
        episode(1, 1, panel, True, hostile=HOSTILE),
    ]
    results = [result(f"bc{HOSTILE}", panel, 1), result("eto-1", panel, 2)]
    run = write_run(tmp_path / "<i>run", results, episodes)
    page = page_of(run)
    allowed = {
        "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "h3", "h4", "p",
        "b", "i", "div", "figure", "svg", "line", "text", "g", "polyline", "circle", "figcaption",
        "span", "table", "tr", "th", "td", "section", "pre", "code", "details", "summary",
    }  # fmt: skip
    assert {tag for tag, _ in page.elements} <= allowed
    names = {name for _, attributes in page.elements for name in attributes}
    assert not {name for name in names if name.startswith("on") or name in ("src", "href", "style")}
    assert "<script>alert(1)</script>" in page.text
    assert "&amp;" in page.text
    raw = (run / "report.html").read_text(encoding="utf-8")
    assert not set("\x00\x07\x1b\u202e") & set(raw)
    assert "[31m" not in raw


def test_the_page_forbids_scripts_and_everything_from_outside(run: Path) -> None:
    page = page_of(run)
    rules = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert rules[0].startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert "http://" not in page.text and "https://" not in page.text


def test_long_episodes_are_cut_and_say_so(tmp_path: Path) -> None:
    episodes = [
        episode(60, 0, "test", False, hostile="x" * 5000),
        episode(60, 1, "test", True),
    ]
    run = write_run(tmp_path / "run", [result("bc", "test", 1)], episodes)
    page = page_of(run)
    assert "and 22 more turns" in page.text
    assert "more characters]" in page.text
    assert len(page.text) < 400_000


def test_several_seeds_get_a_line_each(tmp_path: Path) -> None:
    results = [
        result(policy, "test", 3 + seed, seed=seed)
        for seed in range(3)
        for policy in ("bc", "eto-1")
    ]
    page = page_of(write_run(tmp_path / "run", results, []))
    assert [len(line["points"].split()) for line in page.all("polyline")] == [2] * 3
    assert "eto, seed 2" in page.text


def test_a_run_that_only_cloned_has_one_point(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run", [result("bc", "test", 0, of=3)], []))
    assert len(page.all("circle")) == 1


def test_a_run_without_a_store_has_a_page(run: Path) -> None:
    for file in run.glob("trajectories.sqlite*"):
        file.unlink()
    assert page_of(run).all("section") == []


def test_the_same_run_gives_the_same_bytes(run: Path) -> None:
    assert write_report(run).read_bytes() == write_report(run).read_bytes()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "no such file"),
        ("[", "not JSON"),
        ("[]", "at least one row"),
        ('{"policy": 1}', "at least one row"),
        ("[3]", "field `policy`: missing in row 0"),
        ("missing seed", "field `seed`: missing in row 0"),
        ("text success", "field `success`: '<b>' in row 0"),
        ("true episodes", "field `episodes`: True in row 0"),
        ("success 7", "interval outside its rate"),
        ("nan", "interval outside its rate"),
    ],
)
def test_results_that_cannot_be_read_are_named(
    tmp_path: Path, content: str | None, told: str
) -> None:
    row = result("bc", "test", 3)
    broken = {
        "missing seed": {key: value for key, value in row.items() if key != "seed"},
        "text success": {**row, "success": "<b>"},
        "true episodes": {**row, "episodes": True},
        "success 7": {**row, "success": 7.0},
        "nan": {**row, "success": float("nan")},
    }
    if content is not None:
        text = json.dumps([broken[content]]) if content in broken else content
        (tmp_path / "results.json").write_text(text)
    with pytest.raises(BadFile) as caught:
        write_report(tmp_path)
    assert told in str(caught.value)
    assert not (tmp_path / "report.html").exists()
