"""The signed contexts of callers: one is signed for a while of requests, not for each.

Signing and, in every service, verifying a signature costs more than a lookup in an
index. A context says who calls and what for; which request it is travels beside it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from gateway.auth import Caller
from meshkit import clock
from meshkit.context import RequestContext
from meshkit.identity import REQUEST_SECONDS, Signer
from meshkit.project import DEFAULTS

REUSED_SECONDS = 30.0
"""How long a context is used for further requests; it is valid for much longer."""
_REMEMBERED = 10_000


class Contexts:
    """Signs for callers, and remembers.

    Whoever is asked for here was authenticated for this very request, so a key that was
    revoked gets no context, remembered or not.

    Args:
        signer: The gateway's key.
        now: Seconds since 1970.
    """

    def __init__(self, signer: Signer, now: Callable[[], float] = clock.now) -> None:
        self._signer = signer
        self._now = now
        self._signed: OrderedDict[Caller, tuple[float, str, RequestContext]] = OrderedDict()

    def of(self, caller: Caller, request_id: str) -> RequestContext:
        """A context for a request of the caller; it lives for minutes."""
        now, kid = self._now(), self._signer.follow()
        signed_at, by, context = self._signed.get(caller, (0.0, "", None))
        # What a former key had signed may be refused any moment.
        if context is None or by != kid or not signed_at <= now < signed_at + REUSED_SECONDS:
            context = self.fresh(caller, request_id)
            self._signed[caller] = (now, kid, context)
            self._signed.move_to_end(caller)
            if len(self._signed) > _REMEMBERED:
                self._signed.popitem(last=False)
        return replace(context, request_id=request_id)

    def fresh(self, caller: Caller, request_id: str, *, project_id: str = "") -> RequestContext:
        """A context signed now, for at most as long as the caller's credential lives.

        Args:
            caller: Who was authenticated.
            request_id: The request that asks for it.
            project_id: Another project than the caller's own, to administer it; its settings
                are then left out.
        """
        seconds = REQUEST_SECONDS
        if caller.expires_at is not None:
            seconds = max(1.0, min(seconds, caller.expires_at - self._now()))
        return self._signer.sign(
            project_id=project_id or caller.project_id,
            principals=caller.principals,
            scopes=caller.scopes,
            subject=caller.subject,
            request_id=request_id,
            seconds=seconds,
            settings=DEFAULTS if project_id else caller.settings,
        )
