"""Every registered environment keeps the contract, and every broken one is caught."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import worlds

from trialgym.envs.check import PROPERTIES, check, command
from trialgym.errors import BadInput, UnknownId
from trialgym.registry import ENVS

TOYS = (worlds.Corridor, worlds.Live, worlds.WithoutExpert)
SPOILT = [(name, toy) for name, toys in worlds.BROKEN.items() for toy in toys]


@pytest.mark.parametrize("name", PROPERTIES)
@pytest.mark.parametrize("env", ENVS)
def test_registered_environments_keep_the_contract(env: str, name: str) -> None:
    (row,) = check(env, properties=[name], tasks=8, hostile=120)
    assert row.passed, row.detail


@pytest.mark.parametrize("toy", TOYS)
def test_a_sound_environment_has_every_property(toy: type) -> None:
    found = check(toy, tasks=10, hostile=150)
    assert [row.property for row in found] == list(PROPERTIES)
    assert [row for row in found if not row.passed] == []


@pytest.mark.parametrize(("name", "toy"), SPOILT, ids=lambda part: getattr(part, "__name__", part))
def test_a_broken_environment_is_caught_by_its_property(name: str, toy: type) -> None:
    (row,) = check(toy, properties=[name], tasks=12, hostile=150)
    assert not row.passed, row.detail
    assert row.detail and row.env.endswith(toy.__name__)


def test_every_property_has_an_environment_that_breaks_it() -> None:
    assert list(worlds.BROKEN) == list(PROPERTIES)


def test_the_tasks_that_the_expert_fails_are_named() -> None:
    (row,) = check(worlds.LostExpert, properties=["expert"], tasks=12)
    assert "corridor/train/000003, corridor/train/000010" in row.detail


def test_a_hostile_action_that_raises_is_named_with_its_error() -> None:
    (row,) = check(worlds.CountsLetters, properties=["hostile"])
    assert "ValueError" in row.detail and "huge number" in row.detail


def test_a_difference_is_told_with_turn_and_field() -> None:
    (row,) = check(worlds.ForgetsNothing, properties=["reset"])
    assert "turn 0, observation" in row.detail


def test_an_environment_may_be_named_by_its_place() -> None:
    (row,) = check("worlds:Corridor", properties=["rewards"])
    assert row.env == "worlds:Corridor" and row.passed


def test_a_factory_that_no_other_process_can_name_is_told_what_to_do() -> None:
    (row,) = check(lambda: worlds.Corridor(), properties=["twin"])
    assert not row.passed and "module:Name" in row.detail


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"env": "trialgym/Houshold-v0"}, UnknownId, "did you mean `trialgym/Household-v0`"),
        ({"env": worlds.Corridor, "properties": ["forks"]}, UnknownId, "did you mean `fork`"),
        ({"env": worlds.Corridor, "tasks": 0}, BadInput, "at least 1"),
        ({"env": worlds.Houses}, BadInput, "makes a Houses; wanted a trialgym.TextEnv"),
        ({"env": "worlds:COLOURS"}, BadInput, "wanted a class or function"),
        ({"env": "worlds:Nowhere"}, BadInput, "wanted `module:Name`"),
    ],
)
def test_bad_arguments_get_an_error_that_helps(
    arguments: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        check(**arguments)


def test_the_command_prints_a_row_a_property_and_tells_by_its_code(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(["worlds:Corridor"], tasks=5, json=True) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["property"] for row in rows] == list(PROPERTIES)
    assert {row["env"] for row in rows} == {"worlds:Corridor"}
    assert command(["worlds:Silent"], tasks=5) == 1
    assert "FAILED" in capsys.readouterr().out


def test_an_environment_that_cannot_run_here_hides_no_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(["worlds:Elsewhere", "worlds:Corridor"], tasks=5, json=True) == 1
    first, *others = json.loads(capsys.readouterr().out)
    assert (first["property"], first["passed"]) == ("make", False)
    assert "pip install 'trialgym[docker]'" in first["detail"]
    assert len(others) == len(PROPERTIES) and all(row["passed"] for row in others)


def test_the_page_about_checking_has_a_row_for_every_property() -> None:
    page = Path(__file__).parents[1] / "docs" / "checking.md"
    rows = [line.split("|")[1] for line in page.read_text().splitlines() if line.startswith("| `")]
    assert [name for row in rows for name in re.findall("`([^`]+)`", row)] == list(PROPERTIES)


def test_the_checker_imports_no_torch() -> None:
    code = "import sys, trialgym.envs.check; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
