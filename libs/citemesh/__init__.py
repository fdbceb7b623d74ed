"""What a client of citemesh installs: typed stubs and one small async client.

The stubs are `citemesh.<service>.v1`, generated from `protos/` when the package
is built; this package needs grpcio and protobuf and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from citemesh.client import Mesh as Mesh
    from citemesh.client import TokenRefused as TokenRefused
    from citemesh.client import connect as connect
    from citemesh.transcript import Transcript as Transcript

__all__ = ["Mesh", "TokenRefused", "Transcript", "connect"]


def __getattr__(name: str) -> Any:
    """Loads the client when it is first asked for: a service that needs one contract
    does not pay for the stubs of all."""
    if name not in __all__:
        raise AttributeError(f"module 'citemesh' has no attribute {name!r}")
    from citemesh import client, transcript

    return getattr(transcript if name == "Transcript" else client, name)
