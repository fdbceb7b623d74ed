"""What the gateway lets in at once, in units of one search.

An answer takes eight: it searches, reranks and scores the sentences of its sources. When its text
comes it takes one, because then it is only passed on, for as long as a model writes. Answers
leave searches a tenth of the limit, so that what is cheap is still served when what is dear is
turned away. Uploads take no units, because a file on a slow line would hold them for minutes;
they are let in while half of the limit is free.
"""

from __future__ import annotations

from gateway.settings import GatewaySettings
from meshkit.admission import BULK_SHARE, HELD, Admission
from meshkit.resilience.admission import Kind, Policy

ANSWER_COST = 8.0
UPLOADS_AT_ONCE = 64
FIRST_ANSWERS = 8
"""Answers at once that the gateway begins with."""
LEAST_ANSWERS = 5
"""What it never falls below: what is late without any load, such as a search that waits for a
dead cross-encoder, must not leave a mesh that does nothing."""
COMPLETED_SECONDS = 0.8
"""Before a follow-up is searched for a remote model completes it, which may take so long."""

REQUEST = Kind("request")
SEARCH = Kind("search", target_seconds=0.4)
ANSWER = Kind("answer", cost=ANSWER_COST, share=0.9, target_seconds=0.55, held=HELD)
"""The target is for the first event, the sources: a query embedded and passages reranked far away
take half of it."""
BULK = Kind("bulk", cost=0.0, share=BULK_SHARE, at_once=UPLOADS_AT_ONCE)


def admission(settings: GatewaySettings) -> Admission:
    """Admission as the settings say."""
    most = settings.max_concurrent_rpcs * ANSWER_COST
    start = min(most, FIRST_ANSWERS * ANSWER_COST)
    policy = Policy(
        most, least=LEAST_ANSWERS * ANSWER_COST, start=start, adaptive=settings.adaptive_limit
    )
    return Admission((REQUEST, SEARCH, ANSWER, BULK), policy)
