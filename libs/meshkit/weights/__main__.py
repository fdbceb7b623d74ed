"""`python -m meshkit.weights [NAME...]`: fetches weights ahead of time, one line each."""

from __future__ import annotations

import sys

from meshkit.errors import MeshError
from meshkit.weights import default_names, ensure


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(names: list[str]) -> int:
    """Fetches the named models, or the default ones; 1 when one could not be had."""
    try:
        found = ensure(names or default_names(), report=_say)
    except MeshError as error:
        sys.stderr.write(f"{error.reason}: {error.detail}\n")
        return 1
    for name, weights in found.items():
        _say(f"{name}: ready in {weights.model.parent} ({weights.spec.licence})")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
