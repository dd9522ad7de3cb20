"""What is known of a task: its database, and what is right. None of it reaches a worker's side.

Everything is found on first use and kept while the task is among the recent ones.
"""

import os
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from trialgym.core import Task
from trialgym.errors import BadInput

from .database_backend import Image
from .database_dialect import from_mysql
from .database_files import MUTATIONS
from .database_files import image_of as read_image
from .database_grading import typed
from .database_image import after, rows_of
from .database_tasks import image_of as generated_image

BUILDERS: Mapping[str, Callable[[Mapping[str, Any]], Image]] = {
    "agentbench": read_image,
    "generated": generated_image,
}
KEPT = 256


@dataclass
class Truth:
    """A task's database before and after, and its answer."""

    task: Task

    @property
    def mutation(self) -> bool:
        return self.task.data["kind"] in MUTATIONS

    @property
    def gold(self) -> str:
        """The gold statement in SQLite's words."""
        return self.reads(self.task.data["gold"])

    @property
    def mysql(self) -> bool:
        return self.task.data.get("dialect") == "mysql"

    def reads(self, statement: str) -> str:
        """Give what SQLite should read where the task's dialect has `statement`."""
        return from_mysql(statement) if self.mysql else statement

    @cached_property
    def image(self) -> Image:
        try:
            return BUILDERS[self.task.data["source"]](self.task.data)
        except KeyError as error:
            raise BadInput(
                f"task `{self.task.id}` lacks {error}; take tasks from this environment's task sets"
            ) from error
        except (SQLAlchemyError, sqlite3.Error, UnicodeError) as error:
            raise BadInput(
                f"the tables of task `{self.task.id}` cannot be made: {str(error)[:120]}; leave it "
                "out"
            ) from error

    @cached_property
    def gold_image(self) -> Image:
        try:
            return after(self.image, self.gold)
        except ValueError as error:
            raise BadInput(
                f"the gold statement of task `{self.task.id}` does not run: {error}; leave it out"
            ) from error

    @cached_property
    def values(self) -> tuple[Any, ...]:
        """The answer: a file's label, else what the gold query finds."""
        label = self.task.data.get("label")
        if label is not None:
            return tuple(typed(label))
        return tuple(row[0] for row in rows_of(self.image, self.gold))

    @property
    def label(self) -> tuple[str, ...]:
        """The answer as AgentBench's files write it."""
        label = self.task.data.get("label")
        return tuple(map(str, self.values if label is None else label))


_recent: OrderedDict[str, Truth] = OrderedDict()
_lock = Lock()


def _after_fork() -> None:
    """Take a fresh lock: another thread of the parent may have held the old one."""
    global _lock
    _lock = Lock()


os.register_at_fork(after_in_child=_after_fork)


def truth_of(task: Task) -> Truth:
    """Give the truth of a task; the same object while it is among the recent ones."""
    with _lock:
        truth = _recent.get(task.id)
        if truth is None or (truth.task is not task and truth.task != task):
            truth = _recent[task.id] = Truth(task)
        _recent.move_to_end(task.id)
        if len(_recent) > KEPT:
            _recent.popitem(last=False)
        return truth
