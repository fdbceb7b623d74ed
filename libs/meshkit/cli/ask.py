"""`citemesh ask`: an answer as it is written, then its citations."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshkit.cli.failure import CommandFailed
from meshkit.cli.options import AsJson, Data, Label, Url, parse_labels

if TYPE_CHECKING:
    from meshkit.cli.sse import Event

Question = Annotated[str, typer.Argument(help="The question.")]
NoStream = Annotated[bool, typer.Option("--no-stream", help="Print the answer when it is whole.")]
Timings = Annotated[bool, typer.Option("--timings", help="Draw where the time went.")]
Conversation = Annotated[str, typer.Option("--conversation", help="Continue or start one.")]
QUOTE_CHARACTERS = 90


def ask(
    question: Question,
    label: Label = None,
    conversation: Conversation = "",
    no_stream: NoStream = False,
    timings: Timings = False,
    url: Url = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Answer a question from the documents, with citations."""
    from meshkit.cli.client import Client
    from meshkit.cli.output import clean, print_json

    asked: dict[str, Any] = {"question": question}
    if labels := parse_labels(label):
        asked["filter"] = {"labels": labels}
    if conversation:
        asked["conversation_id"] = conversation
    with Client.open(url, data) as client:
        if as_json or no_stream:
            answer = client.request("POST", "/v1/answers", json=asked)
            if as_json:
                print_json(answer)
                return
            print(clean(answer["answer"]))
        else:
            answer = print_stream(client.stream("/v1/answers", {**asked, "stream": True}))
    _print_closing(answer, timings=timings)


def print_stream(stream: Iterable[Event]) -> dict[str, Any]:
    """Prints the text of an answer's events as it comes; returns the `done` event.

    Text that was retracted cannot be taken off a terminal: when what was printed is not the final
    answer, the final answer is printed once more, whole.

    Raises:
        CommandFailed: the answer failed, or its stream ended without an end.
    """
    from meshkit.cli.output import clean, note

    printed, switched = "", False
    for event in stream:
        content = event.json()
        if event.name == "delta":
            printed += content["text"]
            sys.stdout.write(clean(content["text"]))
            sys.stdout.flush()
        elif event.name == "provider_switched":
            provider = content.get("to_provider", "another provider")
            sys.stdout.write("\n")
            sys.stdout.flush()
            begins = "starts over" if content.get("restarted") else "goes on"
            note(f"[{provider} {begins}: {content.get('reason', '')}]")
            printed = "" if content.get("restarted") else printed
            switched = True
        elif event.name == "done":
            sys.stdout.write("\n")
            if content["answer"].strip() != printed.strip():
                why = "in the end" if switched else "changed by its checks"
                note(f"[the answer, {why}, reads:]" if printed else "")
                print(clean(content["answer"]))
            return content
        elif event.name == "error":
            sys.stdout.write("\n")
            raise CommandFailed(
                str(content.get("detail", "The answer failed.")),
                str(content.get("reason", "ANSWER_FAILED")),
                str(content.get("request_id", "")),
            )
    raise CommandFailed("The answer broke off; ask again.", "ANSWER_INCOMPLETE")


def _print_closing(answer: dict[str, Any], *, timings: bool) -> None:
    from meshkit.cli import waterfall
    from meshkit.cli.output import shorten, table

    if answer["citations"]:
        rows = [
            (
                citation["marker"],
                citation["title"],
                citation.get("page") or citation.get("section") or None,
                shorten(citation.get("quote", ""), QUOTE_CHARACTERS),
                "yes" if citation.get("supported") else "no",
            )
            for citation in answer["citations"]
        ]
        table(("", "document", "page", "quote", "supported"), rows)
    facts = [f"confidence: {answer['confidence']}", f"model: {answer['model']}"]
    if answer.get("cache", "none") != "none":
        facts.append(f"cache: {answer['cache']}")
    if answer.get("cost_usd"):
        facts.append(f"cost: ${answer['cost_usd']:.4f}")
    if answer.get("degraded"):
        facts.append(f"missing: {', '.join(answer['degraded'])}")
    facts.append(f"answer: {answer['answer_id']}")
    print(" · ".join(facts))
    if timings:
        print()
        for line in waterfall.lines(answer.get("timings_ms", {}), answer.get("started_ms", {})):
            print(line)
        print(f"trace: {answer.get('trace_id') or 'none'}")
