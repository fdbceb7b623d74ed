"""The simulator of providers as a child of `citemesh up --simulate`."""

from __future__ import annotations

from dataclasses import dataclass

MODULE = "loadtest.simulator"
PROVIDERS = ("gemini", "cohere", "anthropic")
KEY = "simulated"


@dataclass(frozen=True, slots=True)
class Simulator:
    """Where it listens, `host:port`."""

    address: str

    @property
    def arguments(self) -> list[str]:
        """Of its command line: answers come as slowly as the real ones'."""
        return ["--listen", self.address, "--pace", "lifelike"]

    def access(self) -> dict[str, str]:
        """Variables that point every provider here."""
        found: dict[str, str] = {}
        for provider in PROVIDERS:
            found[f"CITEMESH_{provider.upper()}_BASE_URL"] = f"http://{self.address}/{provider}"
            found[f"{provider.upper()}_API_KEY"] = KEY
        return found

    def defaults(self) -> dict[str, str]:
        """Settings for any process, unless the user says otherwise.

        The embedding space stays as it is: vectors of the simulator would be in the data
        directory when it is next used without it.
        """
        return {
            "CITEMESH_GENERATION_PROVIDERS": "gemini,anthropic,cohere,local",
            "CITEMESH_RERANK_PROVIDERS": "cohere,local",
        }
