"""How long to wait before the same call again."""

from __future__ import annotations

FIRST_SECONDS = 0.2
LONGEST_SECONDS = 5.0


def full_jitter(retries: int, chance: float) -> float:
    """Seconds before the next try: anything up to 0.2, 0.4, 0.8 ... 5.

    All of the time is left to chance, so that callers that failed together do not come back
    together (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).

    Args:
        retries: Tries again so far, from 0.
        chance: Uniform in [0, 1).
    """
    return chance * min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(retries, 16))
