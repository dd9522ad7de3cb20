"""Generated tasks: a pure function of split and index, disjoint between the splits."""

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from random import Random
from typing import Any

from trialgym.core import Task, TaskSet, seed_of
from trialgym.errors import Fault

from .database_backend import Image
from .database_changes import CHANGES
from .database_domains import BY_NAME, DOMAINS, draw_rows, schema
from .database_image import Row, fill
from .database_questions import QUERIES, Draft, World, usable

RESIDUES: Mapping[str, frozenset[int]] = {
    "train": frozenset(range(8)),
    "validation": frozenset((8,)),
    "test": frozenset((9,)),
}
"""Which databases a split may have, by the hash of their first table, modulo ten."""
KINDS = ("SELECT", "UPDATE", "SELECT", "INSERT", "SELECT", "DELETE", "SELECT")
LEVELS = (1, 2, 3, 4)
ATTEMPTS = 400


class DatabaseTasks(TaskSet):
    """Questions and changes over six domains, four levels, kinds in a fixed mix."""

    name = "database"
    env = "trialgym/Database-v0"
    splits: Mapping[str, int | None] = {"train": None, "validation": 1000, "test": 1000}

    def build(self, split: str, index: int) -> Task:
        self.size(split)
        level, kind = LEVELS[index % 4], KINDS[index // 4 % len(KINDS)]
        random = Random(seed_of("database task", split, index))
        domain = DOMAINS[int(random.random() * len(DOMAINS))]
        data = {"source": "generated", "domain": domain.name, "split": split, "index": index}
        world = World(domain, rows_of_task(domain.name, split, index), random)
        template, draft = _draft(world, kind, level, image_of(data))
        data |= {"kind": kind, "level": level, "template": template, "gold": draft.sql}
        tables = ", ".join(entity.table for entity in domain.entities)
        instruction = f"{draft.text}\nThe tables of the database are {tables}."
        return Task(
            self.task_id(split, index), self.env, split, instruction, data | {"grader": "strict"}
        )

    def content(self, task: Task) -> str:
        """Give the question with the very rows that it is about."""
        data = task.data
        rows = rows_of_task(data["domain"], data["split"], data["index"])
        return json.dumps([task.instruction, data["gold"], rows])


def _draft(world: World, kind: str, level: int, image: Image) -> tuple[str, Draft]:
    templates = QUERIES[level] if kind == "SELECT" else CHANGES[kind][level]
    for _ in range(ATTEMPTS):
        template = world.pick(templates)
        draft = template(world)
        if usable(draft, image, kind != "SELECT"):
            return template.__name__, draft
    raise Fault(f"no {kind} task of level {level} in the domain {world.domain.name}")


@lru_cache(maxsize=64)
def rows_of_task(domain: str, split: str, index: int) -> dict[str, list[Row]]:
    """Draw the rows of a task's database.

    The first table is drawn again until its hash falls to the split, so no two splits can ever
    have a database in common.
    """
    world, attempt = BY_NAME[domain], 0
    while True:
        random = Random(seed_of("database rows", domain, split, index, attempt))
        tables = draw_rows(world, random)
        first = next(tables)
        if _residue(domain, first) in RESIDUES[split]:
            return dict([first, *tables])
        attempt += 1


def _residue(domain: str, table: tuple[str, list[Row]]) -> int:
    raw = json.dumps([domain, table]).encode()
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest()) % 10


@lru_cache(maxsize=64)
def _image(domain: str, split: str, index: int) -> Image:
    return fill(schema(domain), rows_of_task(domain, split, index))


def image_of(data: Mapping[str, Any]) -> Image:
    """Build the database that a generated task's data describes."""
    return _image(data["domain"], data["split"], data["index"])
