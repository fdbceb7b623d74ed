"""What code of a release relies on in a schema, and what of it another revision takes away."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from meshkit.components import Schema
from meshkit.database.bootstrap import readers

COLUMNS = """
    SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
           a.attnotnull AND NOT (a.atthasdef OR a.attidentity <> '' OR a.attgenerated <> '')
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE c.relnamespace = CAST(:schema AS regnamespace) AND c.relkind IN ('r', 'p', 'v', 'm')
      AND a.attnum > 0 AND NOT a.attisdropped
"""
FUNCTIONS = """
    SELECT p.oid::regprocedure::text, pg_get_function_result(p.oid)
    FROM pg_proc p WHERE p.pronamespace = CAST(:schema AS regnamespace)
"""
RIGHTS = """
    SELECT c.oid::regclass::text || ' ' || p.kind
    FROM pg_class c, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) p(kind)
    WHERE c.relnamespace = CAST(:schema AS regnamespace) AND c.relkind IN ('r', 'p', 'v', 'm')
      AND CASE WHEN p.kind = 'DELETE' THEN has_table_privilege(:role, c.oid, p.kind)
               ELSE has_any_column_privilege(:role, c.oid, p.kind) END
    UNION ALL
    SELECT p.oid::regprocedure::text || ' EXECUTE'
    FROM pg_proc p WHERE p.pronamespace = CAST(:schema AS regnamespace)
      AND has_function_privilege(:role, p.oid, 'EXECUTE')
"""
DEMANDS = """
    SELECT c.relname, i.indexrelid::regclass::text, array_agg(a.attname::text)
    FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
    WHERE c.relnamespace = CAST(:schema AS regnamespace) AND i.indisunique
    GROUP BY 1, 2
    UNION ALL
    SELECT c.relname, k.conname, array_agg(a.attname::text)
    FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
    JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey)
    WHERE c.relnamespace = CAST(:schema AS regnamespace) AND k.contype IN ('c', 'f', 'x')
    GROUP BY 1, 2
"""
OWN = "alembic_version"


@dataclass(frozen=True, slots=True)
class Shape:
    """A schema as its users see it."""

    columns: Mapping[tuple[str, str], tuple[str, bool]]
    """Type by table and column, and whether whoever inserts has to name it."""
    functions: Mapping[str, str]
    """Result by name with arguments."""
    rights: frozenset[str]
    """What the runtime roles may do: `table INSERT`, `function(text) EXECUTE`."""
    demands: Mapping[tuple[str, str], frozenset[str]]
    """Columns by table and name of a constraint or a unique index."""

    @property
    def tables(self) -> set[str]:
        """Tables and views."""
        return {table for table, _ in self.columns}


NOTHING = Shape({}, {}, frozenset(), {})


def shape(connection: Connection, schema: Schema) -> Shape:
    """The schema now."""

    def rows(statement: str, **more: str) -> list[Any]:
        found = connection.execute(text(statement), {"schema": schema.name, **more})
        return [row for row in found if row[0] != OWN]

    rights = {row[0] for role in readers(schema.name) for row in rows(RIGHTS, role=role)}
    return Shape(
        columns={(table, column): (kind, named) for table, column, kind, named in rows(COLUMNS)},
        functions=dict(tuple(row) for row in rows(FUNCTIONS)),
        rights=frozenset(right for right in rights if OWN not in right),
        demands={(table, name): frozenset(on) for table, name, on in rows(DEMANDS)},
    )


def taken_away(before: Shape, after: Shape) -> Iterator[str]:
    """What code that was written for `before` misses in `after`, or is refused there."""
    yield from _columns(before, after)
    gone = {f"{name} EXECUTE" for name in before.functions.keys() - after.functions.keys()}
    for function, result in before.functions.items():
        if function not in after.functions:
            yield f"function {function} is gone"
        elif after.functions[function] != result:
            yield f"function {function} returns {after.functions[function]} now"
    for right in sorted(before.rights - after.rights - gone):
        yield f"right lost: {right}"
    for (table, name), columns in after.demands.items():
        old = {column for held, column in before.columns if held == table}
        if (table, name) not in before.demands and columns & old:
            yield f"{table} has a new demand, {name}"


def _columns(before: Shape, after: Shape) -> Iterator[str]:
    for place, (kind, named) in before.columns.items():
        name = ".".join(place)
        if place not in after.columns:
            yield f"column {name} is gone"
        elif after.columns[place][0] != kind:
            yield f"column {name} was {kind} and is {after.columns[place][0]}"
        elif after.columns[place][1] and not named:
            yield f"column {name} has to be written now"
    for place, (_, named) in after.columns.items():
        if named and place[0] in before.tables and place not in before.columns:
            yield f"new column {'.'.join(place)} has to be written"
