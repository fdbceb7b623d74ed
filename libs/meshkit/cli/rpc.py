"""The mesh over gRPC, as every internal client calls it; errors become sentences."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from meshkit.cli.failure import CommandFailed

if TYPE_CHECKING:
    import citemesh
    from meshkit.cli.client import Target


@asynccontextmanager
async def connected(target: Target) -> AsyncIterator[citemesh.Mesh]:
    """A client of the mesh.

    Raises:
        CommandFailed: the key was refused, the mesh is away, or the call failed.
    """
    import grpc

    import citemesh
    from citemesh.client import TokenRefused
    from meshkit.errors import from_rpc_error

    try:
        async with citemesh.connect(target.url, target.key) as mesh:
            yield mesh
    except TokenRefused as error:
        raise CommandFailed(
            "The mesh refused the API key.", error.reason, error.request_id
        ) from error
    except grpc.aio.AioRpcError as error:
        typed = from_rpc_error(error)
        raise CommandFailed(
            typed.detail, typed.reason, typed.metadata.get("request_id", "")
        ) from error
    except (OSError, LookupError) as error:
        raise CommandFailed(
            f"The mesh at {target.url} cannot be reached.", "MESH_UNREACHABLE"
        ) from error
