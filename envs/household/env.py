"""The household environment: ALFWorld's tasks, texts and grammar over generated rooms."""

from functools import cache
from typing import Literal

from trialgym.core import ActionSpec, Outcome, Task, TaskSet, TextEnv
from trialgym.errors import BadInput

from . import commands, expert
from .tasks import HouseholdTasks
from .world import State, achieved, build, progress, welcome


class Household(TextEnv[State]):
    """Find things in a room, carry them, clean, heat or cool them, and put them where they belong.

    ## Description
    A room of a home holds 6 to 14 receptacles, some of them closed, and 8 to 18 objects. A task
    names a type of object and what is to become of it. The agent walks from receptacle to
    receptacle, sees only what is where it stands, and carries one object at most. Task types,
    texts and grammar are ALFWorld's, so that prompts and agents made for it carry over; rooms and
    tasks are generated.

    ## Action Space
    `AnyText`: one command. Case and surrounding space don't matter; all else does. Under
    `grammar="move"` (ALFWorld from 0.4.0) an object is put down by `move apple 1 to desk 1`, under
    `grammar="put"` (before) by `put apple 1 in/on desk 1`. The others are `look`, `inventory`,
    `examine`, `go to`, `open`, `close`, `take ... from`, `clean|heat|cool ... with`,
    `slice ... with`, `use` and `help`. `env.actions()` gives the patterns, JSON schemas, and the
    commands that work at the moment. Whatever else is sent, however odd, is answered
    `Nothing happens.`

    ## Observation Space
    `AnyText`: what the command showed, in ALFWorld's words.

    ## Starting State
    The agent stands in the middle of the room, with empty hands, and knows the receptacles' names.
    No object of the goal's type stands in a receptacle of the target's type.

    ## Reward
    1 on the turn that meets the goal, else 0. With `partial=True` the score is the fraction of the
    goal's conditions that are met now, and the reward is its change: it may be negative, and the
    sum is the score. Success is the whole goal in both cases.

    ## Episode End
    Terminated when the goal is met, truncated after `max_turns` actions. The score stands.

    ## Information
    - `task_id`: the task's id.
    - `score`: score so far.
    - `success`: whether the goal is met.
    - `invalid`: whether the last action did nothing.
    - `admissible_commands`: with `admissible=True`, every command that works now, `help` left out.

    ## Arguments
    - `tasks`: a task set; `HouseholdTasks()` by default.
    - `split`: where `reset` draws tasks from: `train`, `validation`, `test` (layouts of rooms that
      training never has) or `test_unseen` (also pairs of goal object and goal target that training
      never has).
    - `grammar`: `move` or `put`.
    - `partial`: whether parts of the goal score.
    - `max_turns`: most actions in an episode.
    - `admissible`: whether `info` lists the commands that work.
    - `render_mode`: `ansi` or None.

    ## References
    Shridhar et al., ALFWorld: Aligning Text and Embodied Environments for Interactive Learning,
    ICLR 2021. Shridhar et al., ALFRED, CVPR 2020.

    ## Version History
    - v0: first version.
    """

    version = "0"

    def __init__(
        self,
        tasks: TaskSet | None = None,
        *,
        split: str | None = None,
        grammar: Literal["move", "put"] = "move",
        partial: bool = False,
        max_turns: int = 40,
        admissible: bool = False,
        render_mode: str | None = None,
    ) -> None:
        if grammar not in commands.PLACING:
            raise BadInput(f"grammar `{grammar}`; wanted `move` or `put`; leave it out for `move`")
        super().__init__(
            HouseholdTasks() if tasks is None else tasks,
            split=split,
            max_turns=max_turns,
            admissible=admissible,
            render_mode=render_mode,
        )
        self.grammar_name = grammar
        self.partial = partial

    def start(self, task: Task) -> tuple[State, str]:
        state = build(task, self.grammar_name)
        return state, welcome(state)

    def act(self, state: State, action: str) -> tuple[State, Outcome]:
        result = commands.act(state, action)
        if result is None:
            return state, Outcome(commands.NOTHING, self._score_of(state), invalid=True)
        after, observation = result
        success = after is not state and achieved(after)
        score = 1.0 if success else self._score_of(after)
        return after, Outcome(observation, score, success, done=success)

    def _score_of(self, state: State) -> float:
        """Score a state; at default only the last one of an episode has a score."""
        return progress(state) if self.partial else 0.0

    def solve(self, state: State) -> str:
        return expert.solve(state)

    def fingerprint(self, state: State) -> str:
        return repr((state.at, state.holding, state.contents, state.reachable, state.marks))

    def admissible(self, state: State) -> tuple[str, ...]:
        return commands.admissible(state)

    def grammar(self) -> ActionSpec:
        return _grammar(self.grammar_name)


_grammar = cache(commands.grammar)
