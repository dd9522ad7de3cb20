"""Another distribution adds an environment, an agent and an algorithm, and nothing here knows it.

`examples/plugin` is what CONTRIBUTING explains; here it is installed beside trialgym, and used.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parents[1] / "examples" / "plugin"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the example with pip, from a copy, since a build leaves files beside the source."""
    pytest.importorskip("setuptools", reason="building the example needs setuptools")
    source = tmp_path_factory.mktemp("source") / "plugin"
    shutil.copytree(PLUGIN, source, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    target = tmp_path_factory.mktemp("site")
    options = "--quiet --no-deps --no-build-isolation --no-index --disable-pip-version-check"
    command = [sys.executable, "-m", "pip", "install", *options.split(), "--target", str(target)]
    subprocess.run([*command, str(source)], check=True, capture_output=True, text=True)
    return target


def run(site: Path, directory: Path, *command: str) -> str:
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    ran = subprocess.run(
        [sys.executable, *command],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def python(site: Path, directory: Path, source: str) -> str:
    return run(site, directory, "-W", "error", "-c", source)


def trialgym(site: Path, directory: Path, line: str) -> str:
    """Run a command line of `trialgym`, without depending on where its script is installed."""
    start = "import sys; from trialgym.cli import main; sys.exit(main())"
    return run(site, directory, "-c", start, *line.split())


def test_an_added_environment_can_be_made_here_and_by_gymnasium(site: Path, tmp_path: Path) -> None:
    source = """
import gymnasium, sys, trialgym
assert "trialgym_example" not in sys.modules, "a plug-in is imported before anyone asks for it"
for make in (trialgym.make, gymnasium.make):
    env = make("example/Corridor-v0")
    observation, info = env.reset(seed=0, options={"task": "corridor/test/000000"})
    print(observation.splitlines()[1])
    done = score = 0
    while not done:
        observation, reward, done, truncated, info = env.step(env.unwrapped.expert())
        score += reward
    print(observation, round(score, 9), info["success"])
    env.close()
"""
    seen = "You stand at crossing 1. The arrow points up.\nYou are out. 1.0 True\n"
    assert python(site, tmp_path, source) == seen * 2


def test_an_added_environment_keeps_the_contract(site: Path, tmp_path: Path) -> None:
    rows = json.loads(trialgym(site, tmp_path, "check example/Corridor-v0 --tasks 25 --json"))
    assert len(rows) > 20
    assert [row for row in rows if not row["passed"]] == []


def test_an_added_environment_is_listed(site: Path, tmp_path: Path) -> None:
    rows = {row["id"]: row for row in json.loads(trialgym(site, tmp_path, "envs --json"))}
    assert rows["example/Corridor-v0"]["splits"] == {"train": 75, "validation": 25, "test": 25}
    assert "trialgym/Household-v0" in rows


LEARN = """
import json, sys
from functools import partial
from pathlib import Path
from trialgym import make, make_agent, summarise
from trialgym.algorithms.training import Experience
from trialgym.registry import find
from trialgym.rollout import rollout

env = "example/Corridor-v0"
world = partial(make, env)

def play(policy, split, samples=1):
    ids = world().tasks.ids(split)
    return rollout(policy, world, ids, env=env, samples=samples, keep_candidates=True)

policy = make_agent("table", temperature=1.0, seed=1)
before = summarise(play(policy, "test", 8))
for name in sys.argv[1:]:
    demonstrations = play(make_agent("expert"), "train")
    experience = Experience(demonstrations, play(policy, "train", 4), demonstrations)
    find("algorithm", name)().train(policy, experience, Path("checkpoints"))
policy.save(Path("saved"))
after = summarise(play(make_agent("saved"), "test"))
print(json.dumps([before.success_rate, after.success_rate]))
"""


def test_an_added_agent_learns_by_an_added_algorithm(site: Path, tmp_path: Path) -> None:
    """On held-out corridors, and after saving and loading it by its directory."""
    before, after = json.loads(run(site, tmp_path, "-W", "error", "-c", LEARN, "weighted"))
    assert before < 0.05
    assert after == 1.0


def test_an_added_agent_learns_by_our_algorithms(site: Path, tmp_path: Path) -> None:
    before, after = json.loads(run(site, tmp_path, "-W", "error", "-c", LEARN, "bc", "eto"))
    assert before < 0.05
    assert after == 1.0


@pytest.mark.slow
def test_the_command_line_takes_added_ids_from_trials_to_a_better_policy(
    site: Path, tmp_path: Path
) -> None:
    env = "example/Corridor-v0"
    explore = f"rollout {env} --tasks train --agent table --samples 8 --temperature 1 --out trials"
    trialgym(site, tmp_path, explore)
    train = "train weighted --policy table --explored trials --steps 40 --out better"
    trialgym(site, tmp_path, train)
    test = f"rollout {env} --tasks test --agent better --out runs/test --json"
    assert json.loads(trialgym(site, tmp_path, test))["success_rate"] == 1.0


@pytest.fixture
def unruly(tmp_path: Path) -> Path:
    """A distribution that claims one of our ids, and names a module that does not exist."""
    info = tmp_path / "unruly" / "unruly-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: unruly\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[trialgym.envs]\n"
        "trialgym/Household-v0 = unruly:Household\n"
        "unruly/Missing-v0 = unruly:Missing\n"
        "[trialgym.agents]\n"
        "typo = trialgym.registry:NoSuchName\n"
    )
    return info.parent


def test_an_unruly_plugin_breaks_only_itself(unruly: Path, tmp_path: Path) -> None:
    source = """
import trialgym
from trialgym.errors import BadInput
print(type(trialgym.make("trialgym/Household-v0")).__module__.partition(".")[0])
for make, name in ((trialgym.make, "unruly/Missing-v0"), (trialgym.make_agent, "typo")):
    try:
        make(name)
    except (BadInput, ImportError) as error:
        print(error)
"""
    ours, missing, typo = python(unruly, tmp_path, source).splitlines()
    assert ours == "trialgym"
    assert "unruly" in missing
    assert "NoSuchName" in typo
