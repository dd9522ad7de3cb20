"""Steps per CPU-second of every registered environment, beside its peers, in one run.

`python -m trialgym.benchmarks.throughput` plays the expert's episodes, recorded beforehand, so that
only the environment is on the clock. CPU time counts every process that an environment starts. The
peers are measured when they are installed, in the same way: whole episodes, resets included.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from json import dumps
from pathlib import Path
from sqlite3 import connect
from types import SimpleNamespace
from typing import Any

import gymnasium

from trialgym.errors import TrialgymError
from trialgym.registry import make, table

from .cpu import cpu_seconds

EPISODES = 20
"""Recorded episodes that are played in turn."""
TURNS = 20
LETTERS = "".join(map(chr, range(32, 127))) + "\n"


@dataclass(frozen=True, slots=True)
class Player:
    """What is measured: one call plays one episode, or only resets."""

    name: str
    play: Callable[[], int]
    """Plays an episode and gives its steps."""
    reset: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured; all figures are per CPU-second."""

    name: str
    steps: float
    """Steps of whole episodes, resets included."""
    steps_alone: float
    """Steps with the time of the resets taken off."""
    resets: float
    ratio: float | None = None
    """Steps over those of the peer."""
    peer: str | None = None


class Empty(gymnasium.Env[str, str]):
    """The least that Gymnasium's text spaces allow: what any environment must cost."""

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Text(4096, min_length=0, charset=LETTERS)
        self.action_space = gymnasium.spaces.Text(512, min_length=0, charset=LETTERS)
        self.turn = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.turn = 0
        return "You see a table. " * 90, {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.turn += 1
        return "There is nothing on it. " * 60, 0.0, self.turn >= TURNS, False, {}


@contextmanager
def empty_text() -> Iterator[Player]:
    """Open Gymnasium's empty text environment, without wrappers."""
    env = Empty()

    def play() -> int:
        env.reset()
        for _ in range(TURNS):
            env.step("look at the table")
        return TURNS

    yield Player("gymnasium, empty text environment", play, env.reset)


@contextmanager
def recorded(name: str, label: str, walk: Callable[[Any], list[str]], **options: Any) -> Any:
    """Open one of our environments, with episodes recorded before the clock runs."""
    with closing(make(name, **options)) as env:
        tasks = [env.tasks[one] for one in env.tasks.ids(env.tasks.first_split, EPISODES)]
        episodes = []
        for task in tasks:
            env.reset(options={"task": task})
            episodes.append((task, walk(env)))
        turn = 0

        def following() -> tuple[Any, list[str]]:
            nonlocal turn
            turn += 1
            return episodes[turn % EPISODES]

        def play() -> int:
            task, actions = following()
            env.reset(options={"task": task})
            for action in actions:
                env.step(action)
            return len(actions)

        yield Player(label, play, lambda: env.reset(options={"task": following()[0]}))


def expert_walk(env: Any) -> list[str]:
    """Play the running episode by its expert, and tell the actions."""
    actions: list[str] = []
    over = False
    while not over:
        actions.append(env.expert())
        _, _, ended, truncated, _ = env.step(actions[-1])
        over = ended or truncated
    return actions


def counting_walk(env: Any) -> list[str]:
    """Count a table's rows five times and answer: what the peer's episodes do."""
    name = env.step("SQL: SELECT name FROM sqlite_master WHERE type = 'table'")[0].split("'")[1]
    return [f'SQL: SELECT COUNT(*) FROM "{name}"'] * 5 + ['Answer: ["1"]']


@contextmanager
def textworld_express() -> Iterator[Player]:
    """Open TextWorldExpress's tidying game; it always lists its valid actions."""
    env = import_module("textworld_express").TextWorldExpressEnv(envStepLimit=100)
    try:
        env.load("twc", "numLocations=3,numItemsToPutAway=4,includeDoors=1")
        paths = []
        for seed in range(EPISODES):
            env.reset(seed=seed, gameFold="train", generateGoldPath=True)
            paths.append((seed, list(env.getGoldActionSequence())))
        turn = 0

        def reset() -> list[str]:
            nonlocal turn
            turn += 1
            seed, path = paths[turn % EPISODES]
            env.reset(seed=seed, gameFold="train", generateGoldPath=False)
            return path

        def play() -> int:
            path = reset()
            for action in path:
                env.step(action)
            return len(path)

        yield Player("textworld-express, twc", play, reset)
    finally:
        env.close()


@contextmanager
def skyrl_text2sql() -> Iterator[Player]:
    """Open SkyRL-Gym's text2sql over a table of a thousand rows."""
    skyrl = import_module("skyrl_gym")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "bird/train/train_databases/toy")
        folder.mkdir(parents=True)
        with closing(connect(folder / "toy.sqlite")) as database:
            database.execute("CREATE TABLE items (id INTEGER, price REAL, name TEXT)")
            rows = [(i, i / 7, f"item {i}") for i in range(1_000)]
            database.executemany("INSERT INTO items VALUES (?, ?, ?)", rows)
            database.commit()
        truth = "SELECT COUNT(*) FROM items"
        extras = {
            "db_id": "toy", "reward_spec": {"ground_truth": truth}, "data": "bird", "max_turns": 6,
        }  # fmt: skip

        def reset() -> Any:
            env = skyrl.make("text2sql", env_config=SimpleNamespace(db_path=place), extras=extras)
            env.init([{"role": "user", "content": "How many items are there?"}])
            return env

        def play() -> int:
            env = reset()
            for _ in range(5):
                env.step(f"<think>Count.</think><sql>{truth}</sql>")
            env.step(f"<think>Counted.</think><solution>{truth}</solution>")
            env.close()
            return 6

        yield Player("skyrl-gym, text2sql", play, reset)


PEERS = {
    "trialgym/Household-v0": (textworld_express, "textworld-express", "Java too"),
    "trialgym/Database-v0": (skyrl_text2sql, "skyrl-gym", "any Python"),
}


def measure(player: Player, seconds: float) -> Row:
    """Play for a while, the best of three rounds; a first round warms caches and compilers up."""
    player.play()
    whole = [_rate(player.play, seconds) for _ in range(4)][1:]
    resets, _ = max(_rate(lambda: (player.reset(), 1)[1], seconds / 2) for _ in range(2))
    steps, length = max(whole)
    alone = 1 / max(1 / steps - 1 / resets / length, 1e-9)
    return Row(player.name, steps, alone, resets)


def _rate(play: Callable[[], int], seconds: float) -> tuple[float, float]:
    """Give the steps per CPU-second, and the steps per episode."""
    began, steps, episodes, used = cpu_seconds(), 0, 0, 0.0
    while used < seconds:
        # Reading the clock of all processes takes a while: do it seldom.
        for _ in range(max(10, episodes)):
            steps += play()
            episodes += 1
        used = cpu_seconds() - began
    return steps / used, steps / episodes


def players(name: str) -> Iterator[Any]:
    """List what is measured of one of our environments."""
    yield recorded(name, name, expert_walk)
    with closing(make(name)) as env:
        env.reset(seed=0)
        listed = env.actions().valid is not None
    if listed:
        yield recorded(name, f"{name}, admissible actions", expert_walk, admissible=True)
    if name == "trialgym/Database-v0":
        yield recorded(name, f"{name}, five counts", counting_walk)


def compare(seconds: float) -> tuple[list[Row], list[str]]:
    """Measure everything that is here; give the rows, and notes on what is not."""
    with empty_text() as player:
        base = measure(player, seconds)
    rows, notes = [base], []
    for name in table("env"):
        peer: Row | None = None
        if name in PEERS:
            opened, package, also = PEERS[name]
            try:
                with opened() as player:
                    peer = measure(player, seconds)
                rows.append(peer)
            except ImportError:
                notes.append(
                    f"{package}, the peer of {name}, is not installed: "
                    f"`pip install {package}` (needs {also})"
                )
        try:
            for opening in players(name):
                with opening as player:
                    rows.append(_beside(measure(player, seconds), peer or base))
        except TrialgymError as error:
            notes.append(f"{name} is left out: {error}")
    return rows, notes


def _beside(row: Row, peer: Row) -> Row:
    ratio = row.steps / peer.steps
    return Row(row.name, row.steps, row.steps_alone, row.resets, ratio, peer.name)


def main(json: bool = False, seconds: float = 1.0) -> None:
    """Measure and print.

    Args:
        json: print an object with `rows` and `notes` instead of a table.
        seconds: CPU seconds of each of the rounds of a measurement.
    """
    rows, notes = compare(seconds)
    if json:
        print(dumps({"rows": [asdict(row) for row in rows], "notes": notes}, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    grid = Table("per CPU-second", "steps", "without resets", "resets", "of the peer's steps")
    for row in rows:
        beside = f"{row.ratio:.3g} times {row.peer}" if row.ratio is not None else ""
        counts = (f"{count:,.0f}" for count in (row.steps, row.steps_alone, row.resets))
        grid.add_row(row.name, *counts, beside)
    Console().print(grid)
    for note in notes:
        print(note)


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(main)
