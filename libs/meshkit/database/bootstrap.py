"""What a fresh Postgres needs once, by an administrator: roles, schemas, pgvector.

For each schema an owner role that migrates it and owns its tables, and for each
service a runtime role that owns nothing. `statements()` prints the same as plain
SQL for managed databases where an operator runs it.
"""

from __future__ import annotations

from collections.abc import Mapping

import asyncpg

from meshkit.components import RUNTIME_ROLES, SCHEMAS
from meshkit.database import pgvector

IDLE_SECONDS = 10
"""A process that was frozen in the middle of a transaction loses it, and its row locks, after
this time: otherwise no other worker could ever claim the document it was working on."""


def create_role(name: str, login: bool) -> str:
    """SQL that makes a role without any right, unless it is there."""
    kind = "LOGIN" if login else "NOLOGIN"
    return (
        f"DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{name}') THEN "
        f"CREATE ROLE {name} {kind} NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE; "
        f"END IF; END $$"
    )


def statements() -> list[str]:
    """SQL that prepares a database; running it again changes nothing."""
    lines = ["CREATE EXTENSION IF NOT EXISTS vector SCHEMA public"]
    for role in RUNTIME_ROLES:
        lines += [
            create_role(role, login=True),
            f"ALTER ROLE {role} SET idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'",
        ]
    for schema in SCHEMAS:
        owner = f"citemesh_{schema.name}_owner"
        lines += [
            create_role(owner, login=False),
            f"GRANT {owner} TO CURRENT_USER",
            f"CREATE SCHEMA IF NOT EXISTS {schema.name} AUTHORIZATION {owner}",
        ]
        lines += [f"GRANT USAGE ON SCHEMA {schema.name} TO {role}" for role in readers(schema.name)]
    return lines


def readers(schema: str) -> tuple[str, ...]:
    """Roles that may enter a schema: its service, and for `usage` every one."""
    if schema == "usage":
        return RUNTIME_ROLES
    return (f"citemesh_{schema}",)


async def bootstrap(admin_url: str, passwords: Mapping[str, str]) -> None:
    """Prepares a database and sets the runtime roles' passwords.

    Args:
        admin_url: Data source name of a role that may create roles and extensions.
        passwords: Password per runtime role, such as `citemesh_retrieval`.

    Raises:
        DatabaseUnfit: when pgvector is missing, too old or unusable here.
    """
    connection = await asyncpg.connect(admin_url)
    try:
        await pgvector.check_available(connection)
        async with connection.transaction():
            for statement in statements():
                await connection.execute(statement)
            try:
                await pgvector.check_installed(connection)
            except pgvector.DatabaseUnfit:
                # Its library is newer than what this database was made with.
                await connection.execute("ALTER EXTENSION vector UPDATE")
                await pgvector.check_installed(connection)
            for role, password in passwords.items():
                quoted = await connection.fetchval("SELECT quote_literal($1::text)", password)
                await connection.execute(f"ALTER ROLE {role} PASSWORD {quoted}")
    finally:
        await connection.close()
