"""Keeps docs/errors.md: every reason the mesh can answer with, found in the code.

    python -m tools.errors           # 1 and the difference when it is not current
    python -m tools.errors --write   # writes it

A reason is the first argument of an error of `meshkit.errors`. It has to be
written out where the error is made, or in the same module: in what a name was
assigned, or in what a function is called with. A reason that cannot be found by
reading cannot be promised. Exceptions of a room's own that carry reason and
detail, such as those of a file that cannot be read, are found by that shape.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from meshkit.errors import BY_KIND, MeshError
from tools.page import Table, keep

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "errors.md"
SOURCES = ("gateway", "services", "libs/meshkit")
REASON = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")

INTRODUCTION = """\
# Errors

Every error has a stable `reason`, which programs may rely on, a `detail`, one sentence for a
person, and the request id. Over REST it is `application/problem+json`; over gRPC the status
carries a `google.rpc.ErrorInfo` with the domain `citemesh`. Of one class the HTTP status and
the gRPC code are always the same. Where a retry helps, the answer says after how many seconds
(`Retry-After`, `google.rpc.RetryInfo`).

The sentences are shown as they stand in the code; `{…}` is filled in when the error happens.

This page is made from the code by `make docs`; `make check` fails when it is not current.
"""


OWN_KINDS = """\

## Reasons that are not a call's own

These end up in something a call returns: the `error` of a document that could not be
processed, the `error` event of an answer that had begun. Where a call fails at once for the
same reason, the table above has it too.
"""


@dataclass(slots=True)
class Reason:
    """A reason and where it is given."""

    kinds: set[str] = field(default_factory=set)
    rooms: set[str] = field(default_factory=set)
    details: list[str] = field(default_factory=list)


def room_of(path: Path) -> str:
    """The service a file belongs to; `every process` for what all share."""
    parts = path.relative_to(ROOT).parts
    return {"services": parts[1], "gateway": "gateway"}.get(parts[0], "every process")


def sentence(node: ast.expr | None) -> str:
    """A detail as it stands in the code, with `{…}` for what is filled in; empty if built."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(sentence(v) if isinstance(v, ast.Constant) else "{…}" for v in values)
        case _:
            return ""


def literals(node: ast.expr) -> set[str]:
    """The reasons written out in an expression."""
    return {
        part.value
        for part in ast.walk(node)
        if isinstance(part, ast.Constant)
        and isinstance(part.value, str)
        and REASON.fullmatch(part.value)
    }


class Module(ast.NodeVisitor):
    """The errors that one module makes."""

    def __init__(self, path: Path, tree: ast.Module) -> None:
        self.found: list[tuple[str, str, str]] = []
        """Class, reason, detail."""
        self.unread: list[str] = []
        self._path = path
        self._assigned: dict[str, set[str]] = defaultdict(set)
        self._passed: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                for argument in node.args:
                    self._passed |= {name for name in literals(argument) if "_" in name}
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    for name in ast.walk(target):
                        if isinstance(name, ast.Name):
                            self._assigned[name.id] |= literals(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        """Notes an error that is made here."""
        self.generic_visit(node)
        kind = node.func.id if isinstance(node.func, ast.Name) else ""
        if not kind[:1].isupper() or not node.args:
            return
        detail = sentence(node.args[1]) if len(node.args) > 1 else ""
        if kind in BY_KIND:
            reasons = self._reasons(node.args[0])
            if not reasons:
                place = f"{self._path.relative_to(ROOT)}:{node.lineno}"
                self.unread.append(f"{place}: the reason of this {kind} cannot be found by reading")
        else:
            reasons = literals(node.args[0]) if " " in detail else set()
        self.found += [(kind, reason, detail) for reason in sorted(reasons)]

    def _reasons(self, node: ast.expr) -> set[str]:
        """What the first argument of an error can be."""
        found = literals(node)
        for part in ast.walk(node):
            if isinstance(part, ast.Name):
                found |= self._assigned.get(part.id) or set()
        # A parameter: what this module's functions are called with. An attribute, such as
        # the reason of an error that is passed on, was found where that was made.
        if not found and isinstance(node, ast.Name):
            found = self._passed
        return found | {"(passed on)"} if isinstance(node, ast.Attribute) else found


def modules() -> Iterator[tuple[Path, Module]]:
    """Every module of the mesh, read."""
    for source in SOURCES:
        for path in sorted((ROOT / source).rglob("*.py")):
            tree = ast.parse(path.read_text("utf-8"), str(path))
            module = Module(path, tree)
            module.visit(tree)
            yield path, module


def collect() -> tuple[dict[str, Reason], list[str]]:
    """Every reason by name, and sentences about errors whose reason was not found."""
    reasons: dict[str, Reason] = defaultdict(Reason)
    unread: list[str] = []
    for path, module in modules():
        unread += module.unread
        for kind, name, detail in module.found:
            if not REASON.fullmatch(name):
                continue
            reason = reasons[name]
            reason.kinds.add(kind)
            reason.rooms.add(room_of(path))
            if detail and detail not in reason.details:
                reason.details.append(detail)
    return dict(sorted(reasons.items())), unread


def row(name: str, reason: Reason) -> tuple[str, ...]:
    """A line of the first table."""
    classes: list[type[MeshError]] = [BY_KIND[kind] for kind in sorted(reason.kinds & set(BY_KIND))]
    http = sorted({str(cls.http_status) for cls in classes})
    codes = sorted({cls.code.name for cls in classes})
    own = own_row(name, reason)
    return (own[0], " ".join(http), " ".join(codes), *own[1:])


def own_row(name: str, reason: Reason) -> tuple[str, ...]:
    """A line of the second table."""
    return f"`{name}`", ", ".join(sorted(reason.rooms)), "<br>".join(sorted(reason.details)[:3])


def page(reasons: dict[str, Reason]) -> str:
    """The whole page."""
    calls = {name: reason for name, reason in reasons.items() if reason.kinds & set(BY_KIND)}
    own = {name: reason for name, reason in reasons.items() if reason.kinds - set(BY_KIND)}
    first = Table(
        ("reason", "HTTP", "gRPC", "from", "what it says"),
        [row(name, reason) for name, reason in calls.items()],
    )
    second = Table(
        ("reason", "from", "what it says"),
        [own_row(name, reason) for name, reason in own.items()],
    )
    return f"{INTRODUCTION}\n{first.text()}{OWN_KINDS}\n{second.text()}"


def main() -> int:
    """Compares or writes the page."""
    reasons, unread = collect()
    return keep(PAGE, page(reasons), unread, write="--write" in sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
