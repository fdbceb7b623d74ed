"""Build hook: compiles the contracts into stubs before a wheel is made.

Runs `protos/compile.py stubs`, which needs the build requirements named in
pyproject.toml. Editable installs run it too; later changes of a contract are
picked up by `make protos`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ContractStubs(BuildHookInterface[Any]):
    """Writes `libs/citemesh/<service>/v1` from `protos/`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compiles the stubs; called by hatchling before each build.

        Raises:
            subprocess.CalledProcessError: a contract does not compile; protoc's
                message stands above it in the build's output.
        """
        del version, build_data
        if self.target_name == "wheel":
            compiler = Path(self.root, "protos", "compile.py")
            # protoc looks for its plugin for types on the PATH: pip puts that of an
            # isolated build there; without isolation it lies beside this interpreter.
            folders = (os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent))
            environment = {**os.environ, "PATH": os.pathsep.join(folders)}
            command = (sys.executable, str(compiler), "stubs")
            subprocess.run(command, env=environment, check=True)  # noqa: S603
