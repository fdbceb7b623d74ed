"""Who calls whom, read from the code: every channel that a component's code opens.

A channel is opened by `Process.channel(name)`. A name that is written out is an edge of the
call graph. A name that comes from `addresses()`, or a channel to an address itself, reaches
whoever the process is told an address of, so there the environment decides. A channel that is
neither is not understood, and reported, so that nothing passes unseen.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.k8s.facts import ROOT

if TYPE_CHECKING:
    from meshkit.components import Component

FACTORY = "channel"
"""Method that opens a channel to a component by its name (`meshkit.process.Process`)."""
TO_AN_ADDRESS = "MeshChannel"
PAST_THE_FACTORY = frozenset({"insecure_channel", "secure_channel"})
TOLD = "addresses"
"""Function that lists the components whose addresses the process is told."""


@dataclass(frozen=True, slots=True)
class Code:
    """What a component's code does, whatever is said about it elsewhere."""

    named: frozenset[str] = frozenset()
    """Components it opens a channel to by name."""
    addressed: bool = False
    """Whether it opens channels to every component it is told an address of."""
    unexplained: tuple[str, ...] = ()
    """`file:line` of channels whose other end is not understood."""
    database: bool = False
    """Whether it opens a pool to Postgres."""
    signs: bool = False
    """Whether it signs contexts."""
    providers: bool = False
    """Whether it reads the keys of providers."""
    weights: bool = False
    """Whether it reads weights of local models."""


class _Reader(ast.NodeVisitor):
    """Collects from one module."""

    def __init__(self, file: str, tree: ast.Module) -> None:
        self.named: set[str] = set()
        self.addressed = False
        self.unexplained: list[str] = []
        self.methods: set[str] = set()
        self.imports: set[str] = set()
        self._file = file
        self._loops: list[tuple[ast.expr, ast.expr]] = []
        self._called: set[int] = set()
        self._constants = {
            target.id: statement.value
            for statement in tree.body
            if isinstance(statement, ast.Assign)
            for target in statement.targets
            if isinstance(target, ast.Name)
        }
        self.visit(tree)

    def visit_Import(self, node: ast.Import) -> None:
        self.imports |= {alias.name for alias in node.names}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.imports |= {f"{node.module}.{alias.name}" for alias in node.names}

    def visit_For(self, node: ast.For) -> None:
        self._inside([(node.target, node.iter)], node)

    def visit_comprehension_of(self, node: Any) -> None:
        self._inside([(each.target, each.iter) for each in node.generators], node)

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_comprehension_of

    def _inside(self, loops: list[tuple[ast.expr, ast.expr]], node: ast.AST) -> None:
        self._loops += loops
        self.generic_visit(node)
        del self._loops[-len(loops) :]

    def visit_Call(self, node: ast.Call) -> None:
        name = _last(node.func)
        if isinstance(node.func, ast.Attribute):
            self._called.add(id(node.func))
            self.methods.add(name)
        if name == FACTORY and isinstance(node.func, ast.Attribute):
            self._opened(node)
        elif name == TO_AN_ADDRESS:
            self.addressed = True
        elif name in PAST_THE_FACTORY:
            self._not_understood(node)
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        # The factory handed on, to be called where its arguments are not seen.
        if node.attr == FACTORY and id(node) not in self._called:
            self._not_understood(node)
        self.generic_visit(node)

    def _opened(self, node: ast.Call) -> None:
        argument = node.args[0] if len(node.args) == 1 and not node.keywords else None
        if isinstance(argument, ast.Constant):
            self.named.add(str(argument.value))
        elif isinstance(argument, ast.Name) and (found := self._from_loop(argument.id)) is not None:
            self.named |= found
        elif not (isinstance(argument, ast.Name) and self._is_told(argument.id)):
            self._not_understood(node)
        else:
            self.addressed = True

    def _loop_of(self, variable: str) -> tuple[ast.expr, ast.expr] | None:
        """The innermost loop that gives a variable its values."""
        for target, source in reversed(self._loops):
            if any(isinstance(part, ast.Name) and part.id == variable for part in _parts(target)):
                return target, source
        return None

    def _is_told(self, variable: str) -> bool:
        loop = self._loop_of(variable)
        return loop is not None and isinstance(loop[1], ast.Call) and _last(loop[1].func) == TOLD

    def _from_loop(self, variable: str) -> set[str] | None:
        """Names that a loop over a constant of the module gives; None for any other loop."""
        loop = self._loop_of(variable)
        if loop is None:
            return None
        target, source = loop
        if isinstance(source, ast.Name):
            source = self._constants.get(source.id, source)
        try:
            rows = ast.literal_eval(source)
        except ValueError:
            return None
        if isinstance(target, ast.Name):
            return set(rows)
        place = [getattr(part, "id", "") for part in _parts(target)].index(variable)
        return {row[place] for row in rows}

    def _not_understood(self, node: ast.expr) -> None:
        self.unexplained.append(f"{self._file}:{node.lineno}")


def _last(function: ast.expr) -> str:
    """`MeshChannel` of `meshkit.channel.MeshChannel`."""
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _parts(target: ast.expr) -> Sequence[ast.expr]:
    return target.elts if isinstance(target, ast.Tuple) else (target,)


def code(sources: Iterable[tuple[str, str]]) -> Code:
    """What the modules of one package do.

    Args:
        sources: Name and text of each.
    """
    readers = [_Reader(name, ast.parse(text, name)) for name, text in sources]
    methods = {method for reader in readers for method in reader.methods}
    imports = {name for reader in readers for name in reader.imports}
    return Code(
        named=frozenset(name for reader in readers for name in reader.named),
        addressed=any(reader.addressed for reader in readers),
        unexplained=tuple(place for reader in readers for place in reader.unexplained),
        database="database" in methods,
        signs="signer" in methods,
        providers=any(name.startswith("meshkit.providers.settings") for name in imports),
        weights=any(name.startswith("meshkit.weights") for name in imports),
    )


def code_of(module: str) -> Code:
    """What a component's package does, by the name of its module."""
    folder = ROOT.joinpath(*module.split("."))
    paths = sorted(folder.rglob("*.py"))
    return code((str(path.relative_to(ROOT)), Path(path).read_text("utf-8")) for path in paths)


def problems(name: str, found: Code, said: Component) -> Iterator[str]:
    """Where `meshkit.components` says other than the code does.

    Args:
        name: Of the component.
        found: In its code.
        said: Its entry in `meshkit.components`.
    """
    for place in found.unexplained:
        yield f"{name}: {place} opens a channel whose other end cannot be told"
    for other in sorted(found.named - set(said.calls)):
        yield f"{name}: its code calls {other}, its `calls` do not"
    for other in sorted(set(said.calls) - found.named):
        yield f"{name}: `calls` names {other}, which its code never calls"
    if said.observes and not found.addressed:
        yield f"{name}: `observes` is set, but its code asks nobody it is told an address of"
    for what, there, wanted in (
        ("uses_database", found.database, said.uses_database),
        ("signs", found.signs, said.signs),
        ("calls_providers", found.providers, said.calls_providers),
    ):
        if there != wanted:
            yield f"{name}: `{what}` is {wanted}, its code says {there}"
