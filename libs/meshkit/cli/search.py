"""`citemesh search`: the passages a query finds."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from meshkit.cli.options import AsJson, Data, Label, Url, parse_labels


class Mode(StrEnum):
    """Which indexes are asked."""

    HYBRID = "hybrid"
    DENSE = "dense"
    LEXICAL = "lexical"


Query = Annotated[str, typer.Argument(help="What to look for.")]
ModeOption = Annotated[Mode, typer.Option("--mode", help="Which indexes are asked.")]
TopK = Annotated[int, typer.Option("--top-k", min=1, max=100, help="Hits to show.")]
PASSAGE_CHARACTERS = 400


def search(
    query: Query,
    mode: ModeOption = Mode.HYBRID,
    top_k: TopK = 10,
    label: Label = None,
    url: Url = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Find passages by meaning and by words."""
    from meshkit.cli.client import Client
    from meshkit.cli.output import note, print_json

    asked: dict[str, Any] = {"query": query, "mode": mode.value, "top_k": top_k}
    if labels := parse_labels(label):
        asked["filter"] = {"labels": labels}
    with Client.open(url, data) as client:
        found = client.request("POST", "/v1/search", json=asked)
    if as_json:
        print_json(found)
        return
    for rank, hit in enumerate(found["hits"], 1):
        _print_hit(rank, hit)
    if not found["hits"]:
        print("Nothing was found.")
    if found["degraded"]:
        note(f"missing: {', '.join(found['degraded'])}")


def _print_hit(rank: int, hit: dict[str, Any]) -> None:
    from meshkit.cli.output import clean, shorten

    place = f"page {hit['page']}" if hit.get("page") else clean(hit.get("section", ""))
    page = f", {place}" if place else ""
    signals = hit["signals"]
    ranks = [
        f"{name} {signals[key]}"
        for name, key in (("dense", "dense_rank"), ("lexical", "lexical_rank"))
        if signals.get(key)
    ]
    if signals.get("rerank_score") is not None:
        ranks.append(f"rerank {signals['rerank_score']:.2f}")
    print(f"{rank}. {clean(hit['title'])}{page}  [{hit['score']:.3f}; {', '.join(ranks)}]")
    if hit.get("heading"):
        print(f"   {shorten(hit['heading'], 120)}")
    print(f"   {shorten(hit['text'], PASSAGE_CHARACTERS)}\n")
