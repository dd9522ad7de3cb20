"""Questions to, and changes of, a relational database, in SQL."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from trialgym.core import ActionSpec, Outcome, Task, TaskSet, TextEnv
from trialgym.errors import BadInput

from .database_actions import SPEC, Answer, Statement, Unclear, parse
from .database_backend import Backend, Image, SqliteBackend
from .database_expert import next_action
from .database_files import AgentBenchTasks
from .database_grading import GRADERS, TABLE
from .database_image import digest
from .database_tasks import DatabaseTasks
from .database_truth import Truth, truth_of


@dataclass(frozen=True, slots=True)
class DatabaseState:
    """A database as a value, and what the agent did last."""

    task: Task
    image: Image | None = None
    """The database; None while it is as the task gave it."""
    ran: tuple[str, ...] = ()
    """The first and the last statement that ran: what the expert goes by."""
    seen: str = ""
    """What the last statement showed."""
    answer: tuple[Any, ...] | None = None


class Database(TextEnv[DatabaseState]):
    """Answer questions about a database, or change it as told, in SQL.

    ## Description
    AgentBench's database task. Each episode has a small database of its own and one thing to do: a
    question whose answer is a list of values, or rows to insert, update or delete. Tasks come from
    a seeded generator (six domains of related tables, four levels from counting to nested
    aggregates), or from AgentBench's own files. Statements run in worker processes that this
    process's environments share; they start on first use, and `close()` ends them.

    ## Action Space
    `AnyText`: `SQL: <statement>` runs one statement, `Answer: ["<value>", ...]` ends the episode.
    AgentBench's `Action: Operation` with a sql block, its `Action: Answer` with `Final Answer:`,
    and the tool calls `execute_sql` and `commit_final_answer` as JSON are understood as well.

    ## Observation Space
    `AnyText`: rows as a list of tuples, cut at 800 characters; or the database's error, or how to
    mend the action.

    ## Starting State
    The task's text, which names the tables; the database as the task gives it. `now` always is
    2025-01-01.

    ## Reward
    1 on the answer that is right, or that finds the database as it should be, else 0.

    ## Episode End
    Terminated by any answer, truncated after `max_turns` actions, with score 0.

    ## Information
    - `task_id`: the task's id.
    - `score`: score so far.
    - `success`: whether the answer, or the database, was right.
    - `invalid`: the action was not understood, or its statement did not run.
    - `admissible_commands`: with `admissible=True`, an empty list: statements have no end.

    ## Arguments
    - `tasks`: path of a file of AgentBench's, or a task set; the generator by default.
    - `split`: where `reset` draws tasks from: `train`, `validation` or `test`; `all` for a file.
    - `grader`: `strict`, or AgentBench's `v0.2` or `fc`; by default `v0.2` for files and `strict`
      for generated tasks.
    - `max_turns`: most actions in an episode.
    - `statement_time`: seconds that a statement may run, 0.01 to 60.
    - `admissible`: whether `info` has the key of that name.
    - `render_mode`: `ansi` or None.

    ## References
    Liu et al., AgentBench: Evaluating LLMs as Agents, ICLR 2024.

    ## Version History
    - v0: first.
    """

    version: ClassVar[str] = "0"
    blocking: ClassVar[bool] = True

    def __init__(
        self,
        tasks: str | Path | TaskSet | None = None,
        *,
        split: str | None = None,
        grader: str | None = None,
        max_turns: int = 15,
        statement_time: float = 1.0,
        admissible: bool = False,
        render_mode: str | None = None,
    ) -> None:
        if grader is not None and grader not in GRADERS:
            raise BadInput(f"grader `{grader}`; wanted one of {', '.join(GRADERS)}, or None")
        if not 0.01 <= statement_time <= 60:
            raise BadInput(f"statement_time {statement_time}; wanted 0.01 to 60 seconds")
        if isinstance(tasks, (str, Path)):
            tasks = AgentBenchTasks(tasks)
        super().__init__(
            DatabaseTasks() if tasks is None else tasks,
            split=split,
            max_turns=max_turns,
            admissible=admissible,
            render_mode=render_mode,
        )
        self.grader = grader
        self.statement_time = float(statement_time)
        self.backend: Backend = SqliteBackend()

    def start(self, task: Task) -> tuple[DatabaseState, str]:
        return DatabaseState(task), task.instruction

    def act(self, state: DatabaseState, action: str) -> tuple[DatabaseState, Outcome]:
        parsed = parse(action)
        if isinstance(parsed, Unclear):
            return state, Outcome(parsed.mend, invalid=True)
        if isinstance(parsed, Statement):
            return self._run(state, parsed)
        return self._finish(state, parsed)

    def _run(self, state: DatabaseState, action: Statement) -> tuple[DatabaseState, Outcome]:
        truth = truth_of(state.task)
        statement = truth.reads(action.sql)
        result = self.backend.execute(_image(state, truth), statement, self.statement_time)
        if not result.ran:
            return state, Outcome(result.text, invalid=True)
        image = result.image or state.image
        if image == truth.image:
            image = None
        ran = (*state.ran[:1], action.sql)
        return replace(state, image=image, ran=ran, seen=result.text), Outcome(result.text)

    def _finish(self, state: DatabaseState, answer: Answer) -> tuple[DatabaseState, Outcome]:
        truth = truth_of(state.task)
        name = self.grader or state.task.data.get("grader", "strict")
        grader = TABLE[name]
        if truth.mutation:
            recorded = state.task.data.get("answer_md5")
            right = grader.tables(_image(state, truth), truth.gold_image, recorded)
        else:
            right = grader.answer(answer, truth.values if name == "strict" else truth.label)
        outcome = Outcome("The answer was taken.", float(right), success=right, done=True)
        return replace(state, answer=answer.values), outcome

    def solve(self, state: DatabaseState) -> str:
        """Give the expert's next action.

        A question is answered from the result of the gold query, or, where the agent has changed
        the database or the task comes with a label, from the truth. A wrongly changed database is
        brought to the gold state row by row; some 200 rows a turn fit.
        """
        truth = truth_of(state.task)
        return next_action(truth, _image(state, truth), state.ran, state.seen)

    def fingerprint(self, state: DatabaseState) -> str:
        return f"{digest(_image(state, truth_of(state.task)))} {state.answer!r}"

    def grammar(self) -> ActionSpec:
        return SPEC

    def close(self) -> None:
        """End the worker processes, unless another environment of this process needs them."""
        self.backend.close()
        super().close()


def _image(state: DatabaseState, truth: Truth) -> Image:
    return truth.image if state.image is None else state.image
