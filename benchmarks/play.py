"""A person plays an environment in the terminal, and may take moves back.

Command: `trialgym play trialgym/Household-v0`
"""

from collections.abc import Callable
from typing import Any

from trialgym.cli import printable
from trialgym.core import Snapshot, TextEnv
from trialgym.errors import BadInput
from trialgym.registry import make

HELP = """\
Type an action, or:
  :actions  what you can do here
  :hint     what the expert would do
  :undo     take your last action back
  :help     this list
  :quit     stop (so does the end of the input)"""
LISTED = 60
"""Longest list of admissible actions that is shown in full."""


class Game:
    """One episode with a person in it."""

    def __init__(self, env: TextEnv[Any], task: str | None, seed: int) -> None:
        self.env = env
        self.past: list[Snapshot[Any]] = []
        options = {} if task is None else {"task": task}
        observation, info = env.reset(seed=seed, options=options)
        self.over = False
        print(f"task {info['task_id']}\n\n{printable(observation)}\n\n{HELP}")

    def act(self, action: str) -> str:
        """Take a turn; gives what to print."""
        if self.over:
            return "the episode is over; `:undo` takes the last action back, `:quit` stops"
        self.past.append(self.env.snapshot())
        observation, _, terminated, truncated, info = self.env.step(action)
        self.over = terminated or truncated
        if not self.over:
            return printable(observation)
        verdict = "success" if info["success"] else "no success"
        if truncated:
            verdict += f"; the budget of {self.env.max_turns} turns is spent"
        count = f"{self.env.turns} turn{'s' if self.env.turns != 1 else ''}"
        return f"{printable(observation)}\n\n{verdict}: score {info['score']:g} after {count}"

    def undo(self) -> str:
        """Restore the moment before the last action."""
        if not self.past:
            return "nothing to take back"
        observation = self.env.restore(self.past.pop())
        self.over = False
        return f"back at turn {self.env.turns}\n\n{printable(observation)}"

    def hint(self) -> str:
        """Ask the expert."""
        if self.over:
            return "the episode is over"
        try:
            return f"the expert would say: {printable(self.env.expert())}"
        except BadInput as error:
            return printable(str(error))

    def actions(self) -> str:
        """Describe the actions, and list them where they are few."""
        spec = self.env.actions()
        valid = spec.valid or ()
        listed = "\n".join(f"  {printable(action)}" for action in valid[:LISTED])
        more = f"\n  and {len(valid) - LISTED} more" if len(valid) > LISTED else ""
        return f"{spec.grammar}\n{listed}{more}".strip()


def play(
    env: str,
    *,
    task: str | None = None,
    seed: int = 0,
    env_options: dict[str, Any] | None = None,
) -> int:
    """Play an environment yourself.

    Args:
        env: id of the environment; see `trialgym envs`.
        task: id of the task, such as `household/test/000003`; drawn by the seed when left out.
        seed: draws the task.
        env_options: the environment's own options, such as `--env_options.max_turns 20`.
    """
    world = make(env, **(env_options or {}))
    try:
        game = Game(world, task, seed)
        commands: dict[str, Callable[[], str]] = {
            ":undo": game.undo,
            ":hint": game.hint,
            ":actions": game.actions,
            ":help": lambda: HELP,
        }
        while True:
            try:
                line = input("\n> ")
            except EOFError:
                print()
                return 0
            if line.strip() == ":quit":
                return 0
            if line.startswith(":"):
                known = commands.get(line.strip())
                print(known() if known else f"unknown command `{printable(line)}`\n{HELP}")
            else:
                print(game.act(line))
    finally:
        world.close()
