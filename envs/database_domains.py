"""The worlds of the generated databases: six domains of related tables, as data.

A field says how it is drawn and how a question speaks of it; the templates in
`database_questions` know nothing of any one domain.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from random import Random
from typing import Any

from sqlalchemy import Column, Date, Float, ForeignKey, Integer, MetaData, String
from sqlalchemy import Table as SqlTable

from .database_image import Row, empty


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST = _words(
    "Ada Bela Carla Dario Edda Fabio Greta Hanno Ines Jonas Kira Lorenz Mara Nils Olga "
    "Pavel Rosa Sven Tilda Ugo Vera Wim Yara Zeno Amir Britt Cyril Dunja Emil Freya Goran "
    "Hilda Ivo Jana Kaspar Leila Milan Nora Oskar Petra"
)
LAST = _words(
    "Abel Brandt Costa Drake Ekman Ferro Grau Holm Ivers Jansen Keller Lindt Moreau Novak "
    "Olsen Pohl Quist Rossi Sorel Thorne Ulrich Varga Weiss Ximenes Young Zeller Arnaud "
    "Bertil Castro Dahl Egger Fuchs Gomes Hauser Ibsen Juhl Kovac Larsen Marchetti Nygaard"
)
CITIES = _words(
    "Aarhus Bergen Cadiz Dresden Evora Florence Ghent Haarlem Innsbruck Jena Krakow Leiden "
    "Malmo Nantes Odense Porto Rennes Siena Turku Utrecht Vigo Zagreb"
)
MATERIALS = _words("Oak Steel Linen Copper Glass Cotton Marble Bamboo Wool Leather Silver Clay")
THINGS = _words(
    "Lamp Chair Bowl Kettle Blanket Clock Vase Basket Mirror Bench Jug Frame Shelf Tray "
    "Stool Rug Candle Desk Pan Curtain"
)
SUBJECTS = _words("River Garden Winter Harbour Mirror Letter Mountain Orchard Silence Lantern")
TURNS = (
    "The Lost {}",
    "A {} in Spring",
    "Beyond the {}",
    "The {} Keeper",
    "Under the {}",
    "Songs of the {}",
    "The Last {}",
    "{} at Night",
    "Maps of the {}",
    "The {} Year",
)


@dataclass(frozen=True, slots=True)
class Field:
    """A column: how it is drawn, and how it is spoken of."""

    name: str
    kind: str
    """`name` (unique text), `choice`, `whole`, `real`, `date` or `ref`."""
    said: str
    """Noun phrase without article."""
    values: tuple[Any, ...] = ()
    """Choices; or lowest, highest and step of a number; or first and last day of a date."""
    where: str = ""
    """Condition after a plural noun, `{}` for the value; of a reference, the link to the parent."""


@dataclass(frozen=True, slots=True)
class Entity:
    """A table and its nouns."""

    table: str
    one: str
    many: str
    rows: tuple[int, int]
    fields: tuple[Field, ...]

    def of(self, *kinds: str) -> list[Field]:
        return [field for field in self.fields if field.kind in kinds]

    @property
    def name(self) -> Field | None:
        """The field that people call a row by."""
        return next(iter(self.of("name")), None)


@dataclass(frozen=True, slots=True)
class Domain:
    """Tables that belong together; parents stand before children."""

    name: str
    entities: tuple[Entity, ...]

    def entity(self, table: str) -> Entity:
        return next(entity for entity in self.entities if entity.table == table)

    def links(self) -> list[tuple[Entity, Field, Entity]]:
        """List child, reference and parent of each link whose parent's rows have names."""
        found = []
        for child in self.entities:
            for field in child.of("ref"):
                parent = self.entity(field.values[0])
                if parent.name:
                    found.append((child, field, parent))
        return found


def _name(said: str, source: str, name: str = "name") -> Field:
    return Field(name, "name", said, (source,))


def _choice(name: str, where: str, values: str, said: str = "") -> Field:
    return Field(name, "choice", said or name.replace("_", " "), tuple(values.split("|")), where)


def _whole(name: str, low: int, high: int, step: int = 1, said: str = "") -> Field:
    return Field(name, "whole", said or name.replace("_", " "), (low, high, step))


def _real(name: str, low: float, high: float, said: str = "") -> Field:
    return Field(name, "real", said or name.replace("_", " "), (low, high))


def _date(name: str, said: str, first: str, last: str) -> Field:
    days = (date.fromisoformat(first), date.fromisoformat(last))
    return Field(name, "date", said, days)


def _ref(name: str, table: str, where: str) -> Field:
    return Field(name, "ref", table, (table,), where)


_CITY = "|".join(CITIES)

DOMAINS = (
    Domain(
        "shop",
        (
            Entity(
                "customers",
                "customer",
                "customers",
                (18, 26),
                (
                    _name("name", "person"),
                    _choice("city", "living in {}", _CITY),
                    _choice("tier", "of the tier {}", "basic|silver|gold|platinum|trial"),
                    _whole("points", 40, 4000, 1, "number of points"),
                    _date("joined_on", "joining date", "2019-01-05", "2023-12-20"),
                ),
            ),
            Entity(
                "products",
                "product",
                "products",
                (16, 24),
                (
                    _name("name", "product"),
                    _choice(
                        "category", "in the category {}", "kitchen|garden|office|bedroom|hall|bath"
                    ),
                    _whole("price", 6, 480),
                    _whole("stock", 0, 350),
                ),
            ),
            Entity(
                "orders",
                "order",
                "orders",
                (45, 65),
                (
                    _ref("customer_id", "customers", "placed by"),
                    _ref("product_id", "products", "for"),
                    _choice("status", "with the status {}", "open|paid|shipped|returned|cancelled"),
                    _whole("quantity", 1, 40),
                    _date("ordered_on", "order date", "2023-01-02", "2024-11-28"),
                ),
            ),
        ),
    ),
    Domain(
        "company",
        (
            Entity(
                "departments",
                "department",
                "departments",
                (8, 11),
                (
                    _name("name", "department"),
                    _choice("city", "located in {}", _CITY),
                    _whole("budget", 120, 2400, 5),
                ),
            ),
            Entity(
                "employees",
                "employee",
                "employees",
                (34, 46),
                (
                    _name("name", "person"),
                    _ref("department_id", "departments", "working in"),
                    _choice(
                        "job", "with the job {}", "analyst|engineer|clerk|designer|planner|auditor"
                    ),
                    _whole("salary", 31000, 98000, 100),
                    _date("hired_on", "hiring date", "2009-02-01", "2024-10-30"),
                ),
            ),
            Entity(
                "assignments",
                "assignment",
                "assignments",
                (45, 60),
                (
                    _ref("employee_id", "employees", "held by"),
                    _choice(
                        "project", "on the project {}", "Atlas|Birch|Comet|Delta|Ember|Fjord|Gale"
                    ),
                    _choice("role", "in the role {}", "lead|member|reviewer|adviser"),
                    _whole("hours", 4, 260, 1, "number of hours"),
                ),
            ),
        ),
    ),
    Domain(
        "library",
        (
            Entity(
                "authors",
                "author",
                "authors",
                (12, 17),
                (
                    _name("name", "person"),
                    _choice(
                        "country", "from {}", "Austria|Chile|Egypt|Finland|Ghana|India|Japan|Peru"
                    ),
                    _whole("born", 1899, 1992, 1, "year of birth"),
                ),
            ),
            Entity(
                "books",
                "book",
                "books",
                (28, 40),
                (
                    _name("title", "book", "title"),
                    _ref("author_id", "authors", "written by"),
                    _choice("genre", "of the genre {}", "crime|poetry|history|travel|essay|fable"),
                    _whole("pages", 64, 940, 1, "number of pages"),
                    _real("rating", 1.0, 9.9),
                ),
            ),
            Entity(
                "loans",
                "loan",
                "loans",
                (45, 65),
                (
                    _ref("book_id", "books", "of"),
                    _choice(
                        "branch", "at the branch {}", "Central|North|Harbour|Station|Hill|Museum"
                    ),
                    _whole("days", 1, 90, 1, "length in days"),
                    _date("borrowed_on", "borrowing date", "2023-01-03", "2024-11-29"),
                ),
            ),
        ),
    ),
    Domain(
        "clinic",
        (
            Entity(
                "doctors",
                "doctor",
                "doctors",
                (9, 13),
                (
                    _name("name", "person"),
                    _choice(
                        "speciality",
                        "with the speciality {}",
                        "cardiology|dermatology|neurology|paediatrics|surgery|radiology",
                    ),
                    _whole("room", 101, 480, 1, "room number"),
                    _whole("fee", 60, 320, 5, "fee per hour"),
                ),
            ),
            Entity(
                "patients",
                "patient",
                "patients",
                (22, 30),
                (
                    _name("name", "person"),
                    _choice("city", "living in {}", _CITY),
                    _choice(
                        "insurance", "with the insurance {}", "Alba|Corda|Helia|Nordia|none yet"
                    ),
                    _whole("born", 1931, 2019, 1, "year of birth"),
                ),
            ),
            Entity(
                "visits",
                "visit",
                "visits",
                (45, 65),
                (
                    _ref("doctor_id", "doctors", "to"),
                    _ref("patient_id", "patients", "by"),
                    _choice(
                        "reason", "for the reason {}", "checkup|injury|follow-up|vaccine|referral"
                    ),
                    _whole("minutes", 5, 120, 1, "length in minutes"),
                    _whole("cost", 20, 900),
                    _date("visited_on", "visiting date", "2023-01-02", "2024-11-28"),
                ),
            ),
        ),
    ),
    Domain(
        "school",
        (
            Entity(
                "teachers",
                "teacher",
                "teachers",
                (9, 13),
                (
                    _name("name", "person"),
                    _choice("building", "in the building {}", "Maple|Cedar|Willow|Aspen|Linden"),
                    _whole("years", 1, 41, 1, "number of years of service"),
                ),
            ),
            Entity(
                "courses",
                "course",
                "courses",
                (16, 22),
                (
                    _name("title", "course", "title"),
                    _ref("teacher_id", "teachers", "taught by"),
                    _choice(
                        "subject", "in the subject {}", "physics|music|latin|biology|drama|logic"
                    ),
                    _whole("credits", 2, 30, 1, "number of credits"),
                ),
            ),
            Entity(
                "enrolments",
                "enrolment",
                "enrolments",
                (45, 65),
                (
                    _ref("course_id", "courses", "in"),
                    _choice(
                        "year_group", "of the year group {}", "first|second|third|fourth|guest"
                    ),
                    _choice("term", "in the term {}", "spring|summer|autumn|winter"),
                    _real("grade", 1.0, 9.9),
                    _whole("absences", 0, 24, 1, "number of absences"),
                ),
            ),
        ),
    ),
    Domain(
        "freight",
        (
            Entity(
                "ports",
                "port",
                "ports",
                (9, 13),
                (
                    _name("name", "city"),
                    _choice("coast", "on the coast {}", "north|east|south|west|inner"),
                    _whole("berths", 3, 90, 1, "number of berths"),
                ),
            ),
            Entity(
                "ships",
                "ship",
                "ships",
                (16, 22),
                (
                    _name("name", "ship"),
                    _ref("home_port_id", "ports", "registered in"),
                    _choice("type", "of the type {}", "tanker|bulker|ferry|reefer|tug|barge"),
                    _whole("tonnage", 300, 64000, 50),
                    _whole("built", 1971, 2023, 1, "year of construction"),
                ),
            ),
            Entity(
                "voyages",
                "voyage",
                "voyages",
                (45, 65),
                (
                    _ref("ship_id", "ships", "made by"),
                    _choice("cargo", "carrying {}", "grain|timber|ore|fruit|cement|steel|salt"),
                    _whole("miles", 40, 5200, 1, "distance in miles"),
                    _whole("delay", 0, 72, 1, "delay in hours"),
                    _date("departed_on", "departure date", "2023-01-02", "2024-11-28"),
                ),
            ),
        ),
    ),
)
BY_NAME = {domain.name: domain for domain in DOMAINS}
NAMES: dict[str, Sequence[str]] = {
    "person": [f"{first} {last}" for first in FIRST for last in LAST],
    "product": [f"{material} {thing}" for material in MATERIALS for thing in THINGS],
    "book": [turn.format(subject) for turn in TURNS for subject in SUBJECTS],
    "city": list(CITIES),
    "ship": [f"{word} {star}" for word in SUBJECTS for star in ("Star", "Wind", "Queen", "Trader")],
    "course": [
        f"{word} {part}"
        for word in ("Applied", "Early", "Modern", "General", "Practical", "Advanced")
        for part in ("Waves", "Harmony", "Syntax", "Cells", "Stages", "Proofs")
    ],
    "department": _words(
        "Accounts Archive Claims Design Exports Facilities Legal Marketing Payroll Quality "
        "Research Sales Security Support Training"
    ),
}
_TYPES = {"whole": Integer, "real": Float, "date": Date}


@cache
def schema(name: str) -> bytes:
    """Create a domain's empty tables."""
    metadata = MetaData()
    for entity in BY_NAME[name].entities:
        columns: list[Column[Any]] = [Column("id", Integer, primary_key=True)]
        for field in entity.fields:
            if field.kind == "ref":
                target = ForeignKey(f"{field.values[0]}.id")
                columns.append(Column(field.name, Integer, target, nullable=False))
            else:
                kind = _TYPES.get(field.kind, String(40))
                columns.append(Column(field.name, kind, nullable=False))
        SqlTable(entity.table, metadata, *columns)
    return empty(metadata)


def draw_rows(domain: Domain, random: Random) -> Iterator[tuple[str, list[Row]]]:
    """Draw the rows of each table, parents first; the caller may stop early."""
    sizes: dict[str, int] = {}
    for entity in domain.entities:
        count = sizes[entity.table] = random.randint(*entity.rows)
        columns = [_draw_column(field, count, sizes, random) for field in entity.fields]
        yield entity.table, list(zip(range(1, count + 1), *columns, strict=True))


def _draw_column(field: Field, count: int, sizes: dict[str, int], random: Random) -> list[Any]:
    if field.kind == "name":
        return random.sample(NAMES[field.values[0]], count)
    if field.kind == "ref":
        # Some parents stay without children, and some have many.
        parents = range(1, sizes[field.values[0]] + 1)
        chosen = random.sample(parents, max(2, len(parents) * 5 // 6))
        return [chosen[int(len(chosen) * random.random() ** 1.4)] for _ in range(count)]
    if field.kind == "choice":
        pool = random.sample(field.values, min(len(field.values), 9))
        return [random.choice(pool) for _ in range(count)]
    return [draw_value(field, random) for _ in range(count)]


def draw_value(field: Field, random: Random) -> Any:
    """Draw one value of a number, date or choice."""
    if field.kind == "whole":
        low, high, step = field.values
        return low + step * int(random.random() * ((high - low) // step + 1))
    if field.kind == "real":
        low, high = field.values
        return round(random.uniform(low, high), 1)
    if field.kind == "date":
        first, last = field.values
        days = int(random.random() * ((last - first).days + 1))
        return (first + timedelta(days)).isoformat()
    return random.choice(field.values)
