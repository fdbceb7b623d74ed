"""Does pgvector work on this processor?

The wheel's pgvector is compiled for AVX2 (x86) or SVE (arm64). On an older processor the server
process dies of an illegal instruction the first time a vector is touched, which would look like
Postgres crashing at random. Asked once at start, it becomes one plain sentence.
"""

from __future__ import annotations

import asyncpg

from meshkit.supervisor.postgres.errors import PostgresError

MINIMUM = (0, 8, 4)
"""0.8.2 to 0.8.4 fixed corruption of indexes in parallel builds and vacuum."""


async def check_vector(maintenance_dsn: str) -> str:
    """Adds two vectors in a transaction that is rolled back; returns pgvector's version.

    Raises:
        PostgresError: pgvector is missing, too old, or dies on this processor.
    """
    connection = await asyncpg.connect(maintenance_dsn, timeout=10)
    try:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("CREATE EXTENSION IF NOT EXISTS vector SCHEMA public")
        version: str = await connection.fetchval(
            "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
        )
        await connection.fetchval("SELECT sum('[1]'::public.vector)::text")
        await transaction.rollback()
    except (asyncpg.UndefinedFileError, asyncpg.FeatureNotSupportedError) as error:
        raise PostgresError(
            "PGVECTOR_MISSING", "This Postgres has no pgvector extension: install pgvector 0.8.4."
        ) from error
    except (asyncpg.ConnectionDoesNotExistError, ConnectionError) as error:
        raise PostgresError(
            "PGVECTOR_UNSUPPORTED_PROCESSOR",
            "The bundled pgvector does not run on this processor (it needs AVX2 on x86, SVE on "
            "arm64): set CITEMESH_DATABASE_URL to a Postgres of your own with pgvector 0.8.4.",
        ) from error
    finally:
        await connection.close(timeout=5)
    if _numbers(version) < MINIMUM:
        wanted = ".".join(map(str, MINIMUM))
        raise PostgresError(
            "PGVECTOR_TOO_OLD", f"pgvector {version} can corrupt an index; {wanted} is needed."
        )
    return version


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
