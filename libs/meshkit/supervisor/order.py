"""In which order processes stop: nobody before those who call it."""

from __future__ import annotations

from collections.abc import Iterable

from meshkit.components import Component


def stopping_levels(components: Iterable[Component]) -> list[list[str]]:
    """Names in groups; a group may stop when the groups before it have.

    Callers come first, so that a call in flight still finds what it needs.

    Raises:
        ValueError: components call each other in a circle.
    """
    remaining = {component.name: set(component.calls) for component in components}
    levels = []
    while remaining:
        called = set().union(*remaining.values())
        level = sorted(name for name in remaining if name not in called)
        if not level:
            raise ValueError(f"components call each other in a circle: {', '.join(remaining)}")
        levels.append(level)
        for name in level:
            del remaining[name]
    return levels
