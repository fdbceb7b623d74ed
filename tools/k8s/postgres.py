"""Keeps `k8s/postgres.sql` current: what an administrator runs once on a Postgres of their own.

python -m tools.k8s.postgres            # 1 when it is not current
python -m tools.k8s.postgres --write
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from meshkit.components import RUNTIME_ROLES, SCHEMAS
from meshkit.database.bootstrap import create_role, statements
from tools.page import keep
from tools.tree import ROOT

SQL = ROOT / "k8s" / "postgres.sql"
MIGRATOR = "citemesh_migrator"
HEAD = """\
-- Made by `make docs` from libs/meshkit/database/bootstrap.py: extension, roles and schemas of
-- citemesh. An administrator runs it once, in the database that citemesh is to have; running it
-- again changes nothing, and so does the script of a newer release where nothing is new.
--
--     psql "$ADMIN_URL" --set ON_ERROR_STOP=1 --file k8s/postgres.sql
--
-- It needs CREATEROLE, CREATE on the database, and leave to make the extension (on Amazon RDS
-- and Aurora: rds_superuser; Cloud SQL: cloudsqlsuperuser; Azure: azure_pg_admin with VECTOR on
-- the list of azure.extensions). No role it makes is a superuser or passes by row security.
"""


def lines() -> Iterator[str]:
    """The file, statement by statement."""
    yield HEAD
    yield from (f"{statement};" for statement in statements())
    yield "\n-- Who migrates: `migrate-url`. It owns nothing and may act as every owner."
    yield f"{create_role(MIGRATOR, login=True)};"
    yield from (f"GRANT citemesh_{schema.name}_owner TO {MIGRATOR};" for schema in SCHEMAS)
    yield "\n-- Then a password for each role that logs in; psql asks and sends none in plain text:"
    yield from (f"--     \\password {role}" for role in (*RUNTIME_ROLES, MIGRATOR))


if __name__ == "__main__":
    text = "\n".join(lines()) + "\n"
    sys.exit(keep(SQL, text, [], write="--write" in sys.argv[1:]))
