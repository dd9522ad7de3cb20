"""Questions: templates over any domain, by level, each with its gold SQL.

A template draws a draft from a world; drafts that are ambiguous, empty or trivial are thrown away
by `usable`, which looks at the data. A level's templates are one table.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

from .database_backend import Image
from .database_domains import Domain, Entity, Field
from .database_image import Row, literal, rows_of

MOST_VALUES = 8
"""Longest answer: it must fit into an observation."""
GAP = 0.011
"""Least distance between the first and the second of a ranking."""


Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class World:
    """A domain with its rows."""

    domain: Domain
    rows: Mapping[str, Sequence[Row]]
    random: Random

    def pick(self, items: Sequence[Item]) -> Item:
        return items[int(self.random.random() * len(items))]

    def entity(self, *kinds: str) -> Entity:
        """Pick a table that has fields of all the kinds."""
        found = [e for e in self.domain.entities if all(e.of(*k.split("|")) for k in kinds)]
        return self.pick(found)

    def field(self, entity: Entity, *kinds: str) -> Field:
        return self.pick(entity.of(*kinds))

    def value(self, entity: Entity, field: Field) -> Any:
        """Pick a value that some row has."""
        return self.pick(self.rows[entity.table])[1 + entity.fields.index(field)]

    def link(self) -> tuple[Entity, Field, Entity]:
        return self.pick(self.domain.links())


@dataclass(frozen=True, slots=True)
class Draft:
    """A question with its gold statement."""

    text: str
    sql: str
    check: str = ""
    """Query whose first value must lie within `between`; of a ranking, the measures in order."""
    between: tuple[float, float] = (1, 1e9)
    place: int = 0
    """Which of the ranking's measures the answer has, from 1; it must have it alone."""


Template = Callable[[World], Draft]


def usable(draft: Draft, image: Image, mutation: bool) -> bool:
    """Tell whether a draft has one clear answer that is not trivial."""
    if draft.check and not _checked(draft, rows_of(image, draft.check)):
        return False
    if mutation:
        return True
    values = [row[0] for row in rows_of(image, draft.sql)]
    return 0 < len(values) <= MOST_VALUES and all(value not in (None, 0, "") for value in values)


def _checked(draft: Draft, rows: Sequence[Row]) -> bool:
    if not draft.place:
        return draft.between[0] <= (rows[0][0] or 0) <= draft.between[1]
    measures = [row[0] for row in rows]
    if len(measures) <= draft.place:
        return False
    near = (measures[draft.place], *measures[max(draft.place - 2, 0) : draft.place - 1])
    return all(abs(measures[draft.place - 1] - other) > GAP for other in near)


# Parts of sentences, and of statements.


def article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeio" else f"a {noun}"


def shown(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def condition_of(world: World, entity: Entity, *kinds: str, of: str = "") -> tuple[str, str]:
    """Draw a condition, in words that follow a plural and in SQL."""
    field = world.field(entity, *(kinds or ("choice", "whole", "real", "date")))
    value = world.value(entity, field)
    column = f"{of}{field.name}"
    if field.kind == "choice":
        return field.where.format(shown(value)), f"{column} = {literal(value)}"
    more = world.random.random() < 0.5
    words = ("after", "before") if field.kind == "date" else ("above", "below")
    said = f"with {article(field.said)} {words[not more]} {value}"
    return said, f"{column} {'>' if more else '<'} {literal(value)}"


def label_of(entity: Entity) -> str:
    assert entity.name is not None
    return entity.name.name


def row_of(world: World, entity: Entity) -> tuple[str, str]:
    """Draw a row by its name, in words and in SQL."""
    assert entity.name is not None
    name = world.value(entity, entity.name)
    return f"the {entity.one} {shown(name)}", f"{entity.name.name} = {literal(name)}"


# Level 1: one table, one step.


def count_where(world: World) -> Draft:
    entity = world.entity("choice")
    said, sql = condition_of(world, entity)
    text = world.pick(
        (
            "How many {} are there {}?",
            "Count the {} {}.",
            "What is the number of {} {}?",
        )
    )
    where = f"SELECT COUNT(*) FROM {entity.table} WHERE {sql}"
    return Draft(
        text.format(entity.many, said), where, where, (2, len(world.rows[entity.table]) - 2)
    )


def look_up(world: World) -> Draft:
    entity = world.entity("name", "choice|whole|real|date")
    field = world.field(entity, "choice", "whole", "real", "date")
    said, sql = row_of(world, entity)
    text = world.pick(("What is the {} of {}?", "Find the {} of {}.", "Tell me the {} of {}."))
    return Draft(
        text.format(field.said, said), f"SELECT {field.name} FROM {entity.table} WHERE {sql}"
    )


AGGREGATES = (
    ("total {}", "SUM({})"),
    ("average {}, rounded to two decimals,", "ROUND(AVG({}), 2)"),
    ("highest {}", "MAX({})"),
    ("lowest {}", "MIN({})"),
)


def _measure(world: World, field: Field, of: str = "") -> tuple[str, str]:
    """Draw an aggregate; sums of years and of rates say nothing."""
    odd = field.kind == "real" or "year" in field.said or "room" in field.said
    said, sql = world.pick(AGGREGATES[odd:])
    column = f"{of}{field.name}"
    if field.kind == "real" and "SUM" in sql:
        sql = "ROUND(SUM({}), 2)"
    return said.format(field.said), sql.format(column)


def aggregate(world: World) -> Draft:
    entity = world.entity("whole|real")
    said, sql = _measure(world, world.field(entity, "whole", "real"))
    text = world.pick(
        ("What is the {} of all {}?", "Give the {} of all {}.", "Find the {} of all {}.")
    )
    return Draft(text.format(said, entity.many), f"SELECT {sql} FROM {entity.table}")


def count_kinds(world: World) -> Draft:
    entity = world.entity("choice")
    field = world.field(entity, "choice")
    condition, where = condition_of(world, entity, "whole", "real", "date")
    text = "How many different values of {} occur among the {} {}?"
    return Draft(
        text.format(field.said, entity.many, condition),
        f"SELECT COUNT(DISTINCT {field.name}) FROM {entity.table} WHERE {where}",
    )


# Level 2: one table, two steps.


def count_both(world: World) -> Draft:
    entity = world.entity("choice", "whole|real|date")
    first, sql_1 = condition_of(world, entity, "choice")
    second, sql_2 = condition_of(world, entity, "whole", "real", "date")
    text = world.pick(("How many {} are there {} and {}?", "Count the {} {} and {}."))
    sql = f"SELECT COUNT(*) FROM {entity.table} WHERE {sql_1} AND {sql_2}"
    return Draft(text.format(entity.many, first, second), sql)


def aggregate_where(world: World) -> Draft:
    entity = world.entity("whole|real", "choice")
    said, sql = _measure(world, world.field(entity, "whole", "real"))
    condition, where = condition_of(world, entity, "choice")
    text = world.pick(("What is the {} of the {} {}?", "Give the {} of the {} {}."))
    count = f"SELECT COUNT(*) FROM {entity.table} WHERE {where}"
    return Draft(
        text.format(said, entity.many, condition),
        f"SELECT {sql} FROM {entity.table} WHERE {where}",
        count,
        (2, 1e9),
    )


def extreme(world: World) -> Draft:
    entity = world.entity("name", "whole|real")
    field = world.field(entity, "whole", "real")
    high = world.random.random() < 0.5
    text = world.pick(("Which {} has the {} {}?", "Name the {} with the {} {}."))
    order = f"FROM {entity.table} ORDER BY {field.name} {'DESC' if high else 'ASC'}"
    return Draft(
        text.format(entity.one, "highest" if high else "lowest", field.said),
        f"SELECT {label_of(entity)} {order} LIMIT 1",
        f"SELECT {field.name} {order}",
        place=1,
    )


def list_names(world: World) -> Draft:
    entity = world.entity("name", "choice|whole|real|date")
    condition, where = condition_of(world, entity)
    text = world.pick(
        (
            "List the {1}s of all {0} {2}.",
            "What are the {1}s of the {0} {2}?",
            "Give the {1} of each of the {0} {2}.",
        )
    )
    return Draft(
        text.format(entity.many, label_of(entity), condition),
        f"SELECT {label_of(entity)} FROM {entity.table} WHERE {where}",
        f"SELECT COUNT(*) FROM {entity.table} WHERE {where}",
        (2, MOST_VALUES),
    )


def commonest(world: World) -> Draft:
    entity = world.entity("choice")
    field = world.field(entity, "choice")
    text = world.pick(
        (
            "Which {} is the most common among the {}?",
            "Name the most frequent {} of the {}.",
        )
    )
    group = f"FROM {entity.table} GROUP BY {field.name} ORDER BY COUNT(*) DESC"
    return Draft(
        text.format(field.said, entity.many),
        f"SELECT {field.name} {group} LIMIT 1",
        f"SELECT COUNT(*) {group}",
        place=1,
    )


# Level 3: two tables.


def _joined(child: Entity, field: Field, parent: Entity) -> str:
    return f"{child.table} AS c JOIN {parent.table} AS p ON p.id = c.{field.name}"


def join_count(world: World) -> Draft:
    child, field, parent = world.link()
    condition, where = condition_of(world, parent, of="p.")
    text = world.pick(
        (
            "How many {} {} {} {} are there?",
            "Count the {} {} {} {}.",
        )
    )
    sql = f"SELECT COUNT(*) FROM {_joined(child, field, parent)} WHERE {where}"
    return Draft(text.format(child.many, field.where, parent.many, condition), sql, sql, (2, 1e9))


def join_named(world: World) -> Draft:
    child, field, parent = world.link()
    measured = world.field(child, "whole", "real")
    said, sql = _measure(world, measured, "c.")
    name, where = row_of(world, parent)
    text = world.pick(("What is the {} of the {} {} {}?", "Give the {} of the {} {} {}."))
    source = f"FROM {_joined(child, field, parent)} WHERE p.{where}"
    return Draft(
        text.format(said, child.many, field.where, name),
        f"SELECT {sql} {source}",
        f"SELECT COUNT(*) {source}",
        (2, 1e9),
    )


def join_aggregate(world: World) -> Draft:
    child, field, parent = world.link()
    said, sql = _measure(world, world.field(child, "whole", "real"), "c.")
    condition, where = condition_of(world, parent, "choice", of="p.")
    text = world.pick(("What is the {} of the {} {} {} {}?", "Give the {} of the {} {} {} {}."))
    source = f"FROM {_joined(child, field, parent)} WHERE {where}"
    return Draft(
        text.format(said, child.many, field.where, parent.many, condition),
        f"SELECT {sql} {source}",
        f"SELECT COUNT(*) {source}",
        (2, 1e9),
    )


def join_list(world: World) -> Draft:
    child, field, parent = world.link()
    condition, where = condition_of(world, child, "choice", "whole", "real", "date", of="c.")
    name = f"p.{label_of(parent)}"
    text = world.pick(
        (
            "List the {}s of the {} that have at least one {} {}.",
            "What are the {}s of all {} with at least one {} {}?",
        )
    )
    source = f"FROM {_joined(child, field, parent)} WHERE {where}"
    return Draft(
        text.format(label_of(parent), parent.many, child.one, condition),
        f"SELECT DISTINCT {name} {source}",
        f"SELECT COUNT(DISTINCT {name}) {source}",
        (2, MOST_VALUES),
    )


def join_most(world: World) -> Draft:
    child, field, parent = world.link()
    text = world.pick(("Which {} has the most {}?", "Name the {} with the largest number of {}."))
    group = f"FROM {_joined(child, field, parent)} GROUP BY p.id ORDER BY COUNT(*) DESC"
    return Draft(
        text.format(parent.one, child.many),
        f"SELECT p.{label_of(parent)} {group} LIMIT 1",
        f"SELECT COUNT(*) {group}",
        place=1,
    )


# Level 4: nested.


def above_average(world: World) -> Draft:
    entity = world.entity("whole|real", "choice")
    field = world.field(entity, "whole", "real")
    condition, where = condition_of(world, entity, "choice")
    more = world.random.random() < 0.5
    average = f"(SELECT AVG({field.name}) FROM {entity.table})"
    compared = f"{field.name} {'>' if more else '<'} {average}"
    sql = f"SELECT COUNT(*) FROM {entity.table} WHERE {where} AND {compared}"
    text = "How many of the {0} {1} have {2} {3} the average of all {0}?"
    return Draft(
        text.format(entity.many, condition, article(field.said), "above" if more else "below"), sql
    )


def childless(world: World) -> Draft:
    child, field, parent = world.link()
    source = (
        f"FROM {parent.table} AS p WHERE NOT EXISTS "
        f"(SELECT 1 FROM {child.table} AS c WHERE c.{field.name} = p.id)"
    )
    text = world.pick(
        (
            "List the {2} of each {0} that has no {1}.",
            "Which {0} has, or which {3} have, no {1} at all?",
        )
    )
    return Draft(
        text.format(parent.one, child.many, label_of(parent), parent.many),
        f"SELECT p.{label_of(parent)} {source}",
        f"SELECT COUNT(*) {source}",
        (1, MOST_VALUES),
    )


def having(world: World) -> Draft:
    child, field, parent = world.link()
    least = world.random.randint(2, 5)
    condition, where = condition_of(world, child, "choice", "whole", "real", "date")
    sql = (
        f"SELECT COUNT(*) FROM (SELECT {field.name} FROM {child.table} WHERE {where} "
        f"GROUP BY {field.name} HAVING COUNT(*) >= {least}) AS g"
    )
    text = "How many {} have at least {} {} {}?"
    return Draft(text.format(parent.many, least, child.many, condition), sql)


def top_sum(world: World) -> Draft:
    child, field, parent = world.link()
    numbers = [f for f in child.of("whole") if "year" not in f.said]
    if not numbers:
        return extreme(world)
    number = world.pick(numbers)
    condition, where = condition_of(world, child, "choice", of="c.")
    measure = f"SUM(c.{number.name})"
    group = (
        f"FROM {_joined(child, field, parent)} WHERE {where} GROUP BY p.id ORDER BY {measure} DESC"
    )
    text = "Which {} has the highest total {} of {} {}?"
    return Draft(
        text.format(parent.one, number.said, child.many, condition),
        f"SELECT p.{label_of(parent)} {group} LIMIT 1",
        f"SELECT {measure} {group}",
        place=1,
    )


def group_average(world: World) -> Draft:
    entity = world.entity("choice", "whole|real")
    choice, number = world.field(entity, "choice"), world.field(entity, "whole", "real")
    high = world.random.random() < 0.5
    measure = f"AVG({number.name})"
    group = (
        f"FROM {entity.table} GROUP BY {choice.name} ORDER BY {measure} {'DESC' if high else 'ASC'}"
    )
    text = "Group the {0} by {1}: which {1} has the {3} average {2}?"
    return Draft(
        text.format(entity.many, choice.said, number.said, "highest" if high else "lowest"),
        f"SELECT {choice.name} {group} LIMIT 1",
        f"SELECT {measure} {group}",
        place=1,
    )


def nth(world: World) -> Draft:
    entity = world.entity("name", "whole|real")
    field = world.field(entity, "whole", "real")
    place = world.random.randint(2, 4)
    word = ("second", "third", "fourth")[place - 2]
    order = f"FROM {entity.table} ORDER BY {field.name} DESC"
    return Draft(
        f"Which {entity.one} has the {word} highest {field.said}?",
        f"SELECT {label_of(entity)} {order} LIMIT 1 OFFSET {place - 1}",
        f"SELECT {field.name} {order}",
        place=place,
    )


def grandchildren(world: World) -> Draft:
    """Two joins: rows of a table by a condition on the parent of their parent."""
    links = world.domain.links()
    chains = [(low, high) for low in links for high in links if low[2] is high[0]]
    if not chains:
        return join_aggregate(world)
    (child, field, middle), (_, upper, top) = world.pick(chains)
    condition, where = condition_of(world, top, "choice", "whole", of="t.")
    source = f"{_joined(child, field, middle)} JOIN {top.table} AS t ON t.id = p.{upper.name}"
    sql = f"SELECT COUNT(*) FROM {source} WHERE {where}"
    text = "How many {} {} {} {} {} {} are there?"
    said = text.format(child.many, field.where, middle.many, upper.where, top.many, condition)
    return Draft(said, sql, sql, (2, 1e9))


QUERIES: Mapping[int, tuple[Template, ...]] = {
    1: (count_where, look_up, look_up, aggregate, aggregate, count_kinds),
    2: (count_both, aggregate_where, aggregate_where, extreme, list_names, commonest),
    3: (join_count, join_named, join_named, join_aggregate, join_list, join_most),
    4: (above_average, childless, having, top_sum, group_average, nth, grandchildren),
}
