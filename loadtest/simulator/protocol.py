"""uvicorn's HTTP protocol, with the connection within reach of whoever wants to break it."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from loadtest.simulator.reply import TRANSPORT


class Protocol(HttpToolsProtocol):
    """Leaves the transport in the scope of every request."""

    def on_message_begin(self) -> None:
        """Called by the parser when a request begins."""
        super().on_message_begin()
        self.scope[TRANSPORT] = self.transport  # type: ignore[literal-required]
