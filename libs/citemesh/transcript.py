"""What a reader has of an answer, event by event."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from citemesh.generation.v1 import AnswerEvent


@dataclass(slots=True)
class Transcript:
    """Applies an answer's events: text that is added, taken back, or void because it starts over.

        transcript = Transcript()
        async for event in mesh.ask("How many days of leave do we get?"):
            show(transcript.add(event))

    The text of the closing event is the answer; until then this is what to show.
    """

    text: str = ""
    switches: list[str] = field(default_factory=list)
    """Each time that another provider went on: `gemini -> anthropic: PROVIDER_OVERLOADED`."""

    def add(self, event: AnswerEvent) -> str:
        """The text as it stands after one more event."""
        match event.WhichOneof("event"):
            case "delta":
                self.text += event.delta.text
            case "retract":
                found = event.retract
                # Python's strings and the contract both count code points.
                self.text = self.text[: found.start] + found.replacement + self.text[found.end :]
            case "provider_switched":
                found_switch = event.provider_switched
                self.switches.append(
                    f"{found_switch.from_provider} -> {found_switch.to_provider}: "
                    f"{found_switch.reason}"
                )
                if found_switch.restarted:
                    self.text = ""
            case "done":
                self.text = event.done.answer
        return self.text
