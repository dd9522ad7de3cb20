"""Changes: templates of rows to insert, update and delete, by level, each with its gold SQL."""

from collections.abc import Mapping
from typing import Any

from .database_domains import NAMES, Entity, Field, draw_value
from .database_image import literal
from .database_questions import (
    Draft,
    Template,
    World,
    article,
    condition_of,
    row_of,
    shown,
)


def _values(world: World, entity: Entity) -> tuple[list[str], list[str], list[str]]:
    """Draw a new row: the columns, their values in words, and in SQL."""
    number = len(world.rows[entity.table]) + 1
    columns, said, sql = ["id"], [f"id {number}"], [str(number)]
    for field in entity.fields:
        columns.append(field.name)
        if field.kind == "ref":
            parent = world.domain.entity(field.values[0])
            words, where = row_of(world, parent)
            said.append(f"{field.where} {words}")
            sql.append(f"(SELECT id FROM {parent.table} WHERE {where})")
            continue
        value = _fresh(world, entity, field)
        said.append(f"{field.said} {shown(value)}")
        sql.append(literal(value))
    return columns, said, sql


def _fresh(world: World, entity: Entity, field: Field) -> Any:
    if field.kind != "name":
        return draw_value(field, world.random)
    place = 1 + entity.fields.index(field)
    taken = {row[place] for row in world.rows[entity.table]}
    return world.pick([name for name in NAMES[field.values[0]] if name not in taken])


def _insert(world: World, linked: bool) -> Draft:
    found = [e for e in world.domain.entities if bool(e.of("ref")) is linked]
    entity = world.pick(found)
    columns, said, sql = _values(world, entity)
    text = world.pick(("Add {} to the table {}: {}.", "Insert {} into the table {}: {}."))
    return Draft(
        text.format(article(entity.one), entity.table, ", ".join(said)),
        f"INSERT INTO {entity.table} ({', '.join(columns)}) VALUES ({', '.join(sql)})",
    )


def insert_row(world: World) -> Draft:
    return _insert(world, linked=False)


def insert_linked(world: World) -> Draft:
    return _insert(world, linked=True)


def _assignment(world: World, entity: Entity) -> tuple[str, str, str]:
    """Draw what to set: in words with a gap for the rows, in SQL, and where that changes a row."""
    field = world.field(entity, "choice", "whole", "date")
    countable = field.kind == "whole" and "year" not in field.said and "room" not in field.said
    if countable and world.random.random() < 0.6:
        step = world.random.randint(2, 40)
        word, sign = world.pick((("Raise", "+"), ("Lower", "-")))
        said = f"{word} the {field.said} of {{}} by {step}."
        return said, f"{field.name} = {field.name} {sign} {step}", "1 = 1"
    value = draw_value(field, world.random)
    words = world.pick(("Set the {0} of {{}} to {1}.", "Change the {0} of {{}} to {1}."))
    change = f"{field.name} = {literal(value)}"
    return words.format(field.said, shown(value)), change, f"{field.name} <> {literal(value)}"


def _update(entity: Entity, said: str, rows: str, change: str, where: str, moved: str) -> Draft:
    check = f"SELECT COUNT(*) FROM {entity.table} WHERE {where} AND {moved}"
    sql = f"UPDATE {entity.table} SET {change} WHERE {where}"
    return Draft(said.format(rows), sql, check)


def update_named(world: World) -> Draft:
    entity = world.entity("name", "choice|whole|date")
    said, change, moved = _assignment(world, entity)
    name, where = row_of(world, entity)
    return _update(entity, said, name, change, where, moved)


def update_where(world: World) -> Draft:
    entity = world.entity("choice|whole|date")
    said, change, moved = _assignment(world, entity)
    condition, where = condition_of(world, entity)
    return _update(entity, said, f"all {entity.many} {condition}", change, where, moved)


def update_linked(world: World) -> Draft:
    child, field, parent = world.link()
    said, change, moved = _assignment(world, child)
    condition, inner = condition_of(world, parent)
    where = f"{field.name} IN (SELECT id FROM {parent.table} WHERE {inner})"
    rows = f"all {child.many} {field.where} {parent.many} {condition}"
    return _update(child, said, rows, change, where, moved)


def update_average(world: World) -> Draft:
    entity = world.entity("whole|real")
    said, change, moved = _assignment(world, entity)
    field = world.field(entity, "whole", "real")
    more = world.random.random() < 0.5
    where = f"{field.name} {'>' if more else '<'} (SELECT AVG({field.name}) FROM {entity.table})"
    words = f"{article(field.said)} {'above' if more else 'below'} the average of all {entity.many}"
    rows = f"all {entity.many} that have, before the change, {words}"
    return _update(entity, said, rows, change, where, moved)


def _leaf(world: World) -> Entity:
    """Pick a table that no other refers to."""
    parents = {f.values[0] for entity in world.domain.entities for f in entity.of("ref")}
    found: Entity = world.pick([e for e in world.domain.entities if e.table not in parents])
    return found


def _delete(world: World, entity: Entity, rows: str, where: str) -> Draft:
    text = world.pick(("Delete {}.", "Remove {} from the database."))
    check = f"SELECT COUNT(*) FROM {entity.table} WHERE {where}"
    most = len(world.rows[entity.table]) - 1
    return Draft(text.format(rows), f"DELETE FROM {entity.table} WHERE {where}", check, (1, most))


def delete_one(world: World) -> Draft:
    entity = _leaf(world)
    number = world.random.randint(1, len(world.rows[entity.table]))
    return _delete(world, entity, f"the {entity.one} with the id {number}", f"id = {number}")


def delete_where(world: World) -> Draft:
    entity = _leaf(world)
    first, sql_1 = condition_of(world, entity, "choice")
    second, sql_2 = condition_of(world, entity, "whole", "real", "date")
    rows = f"all {entity.many} {first} and {second}"
    return _delete(world, entity, rows, f"{sql_1} AND {sql_2}")


def delete_linked(world: World) -> Draft:
    entity = _leaf(world)
    field = world.field(entity, "ref")
    parent = world.domain.entity(field.values[0])
    name, inner = row_of(world, parent)
    where = f"{field.name} = (SELECT id FROM {parent.table} WHERE {inner})"
    return _delete(world, entity, f"all {entity.many} {field.where} {name}", where)


def delete_childless(world: World) -> Draft:
    child, field, parent = world.link()
    links = [link for link in world.domain.links() if link[2] is parent]
    if len(links) > 1:
        return delete_average(world)
    where = f"id NOT IN (SELECT {field.name} FROM {child.table})"
    return _delete(world, parent, f"all {parent.many} that have no {child.many}", where)


def delete_average(world: World) -> Draft:
    entity = _leaf(world)
    field = world.field(entity, "whole", "real")
    condition, inner = condition_of(world, entity, "choice")
    more = world.random.random() < 0.5
    where = (
        f"{inner} AND {field.name} {'>' if more else '<'} "
        f"(SELECT AVG({field.name}) FROM {entity.table})"
    )
    words = f"{article(field.said)} {'above' if more else 'below'} the average of all {entity.many}"
    return _delete(world, entity, f"all {entity.many} {condition} that have {words}", where)


CHANGES: Mapping[str, Mapping[int, tuple[Template, ...]]] = {
    "INSERT": {
        1: (insert_row,),
        2: (insert_row, insert_linked),
        3: (insert_linked,),
        4: (insert_linked,),
    },
    "UPDATE": {
        1: (update_named,),
        2: (update_where,),
        3: (update_linked,),
        4: (update_average, update_linked),
    },
    "DELETE": {
        1: (delete_one,),
        2: (delete_where,),
        3: (delete_linked,),
        4: (delete_childless, delete_average),
    },
}
