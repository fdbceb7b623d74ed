"""Cohere's wire format: `v2/embed`, `v2/rerank`, `v2/chat`, errors."""

from __future__ import annotations

import uuid
from typing import Any

from starlette.requests import Request

from loadtest.simulator import embeddings, writing
from loadtest.simulator.call import Call, tokens
from loadtest.simulator.faults import Fault, FaultKind
from loadtest.simulator.gemini import bent
from loadtest.simulator.quotas import Exceeded
from loadtest.simulator.reply import Body, Events, data_frame
from loadtest.simulator.world import Record, World

PROVIDER = "cohere"
OPERATIONS = {"embed": "embed", "rerank": "rerank", "chat": "generate"}
DIMENSIONS = {"embed-v5.0-fast": 2048, "embed-v4.0": 1536}


def call_of(request: Request, content: dict[str, Any]) -> Call:
    """The call a request is."""
    key = request.headers.get("authorization", "").removeprefix("Bearer").strip()
    texts = [*content.get("texts", []), *content.get("documents", []), content.get("query", "")]
    texts += [_text(message) for message in content.get("messages", [])]
    return Call(
        PROVIDER,
        OPERATIONS.get(request.path_params["action"], request.path_params["action"]),
        content.get("model", ""),
        key,
        sum(tokens(text) for text in texts if isinstance(text, str) and text),
        streams=bool(content.get("stream")),
    )


def _text(message: dict[str, Any]) -> str:
    content = message.get("content", "")
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def answer(
    world: World, record: Record, content: dict[str, Any], fault: Fault | None
) -> Body | Events:
    """What Cohere says to a call that it takes."""
    match record.call.operation:
        case "embed":
            return _embed(record, content, fault)
        case "rerank":
            return _rerank(record, content)
        case "generate":
            return _chat(world, record, content)
        case _:
            return error(404, "resource not found")


def _id(record: Record) -> str:
    return str(uuid.UUID(int=record.number))


def _embed(record: Record, content: dict[str, Any], fault: Fault | None) -> Body:
    texts = content.get("texts", [])
    if len(texts) > 96:
        return error(
            400,
            f"invalid request: total number of texts must be at most 96 - received {len(texts)}",
        )
    wanted = content.get("output_dimension") or DIMENSIONS.get(record.call.model, 1536)
    vectors = [
        bent(
            embeddings.normalised(embeddings.vector(text, content.get("input_type", ""), wanted)),
            fault,
        )
        for text in texts
    ]
    return Body(
        200,
        {
            "id": _id(record),
            "embeddings": {"float": vectors},
            "texts": texts,
            "meta": {
                "api_version": {"version": "2"},
                "billed_units": {"input_tokens": record.call.input_tokens},
            },
            "response_type": "embeddings_by_type",
        },
    )


def _rerank(record: Record, content: dict[str, Any]) -> Body:
    documents = content.get("documents", [])
    scores = writing.relevance(content.get("query", ""), documents)
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    units: dict[str, float] = {"search_units": max(1, -(-len(documents) // 100))}
    return Body(
        200,
        {
            "id": _id(record),
            "results": [
                {"index": index, "relevance_score": round(scores[index], 7)}
                for index in order[: content.get("top_n") or len(order)]
            ],
            "meta": {
                "api_version": {"version": "2"},
                "billed_units": units,
                "tokens": {"input_tokens": record.call.input_tokens},
            },
        },
    )


def _chat(world: World, record: Record, content: dict[str, Any]) -> Body | Events:
    headers: dict[str, str] = {}
    if "requests" in (quota := world.quotas.left(record.call, world.now())):
        limit, left = quota["requests"]
        headers["x-trial-endpoint-call-limit"] = str(limit)
        headers["x-trial-endpoint-call-remaining"] = str(left)
    messages = content.get("messages", [])
    system = "\n".join(_text(m) for m in messages if m.get("role") == "system")
    prompt = "\n".join(_text(m) for m in messages if m.get("role") != "system")
    pace = world.pace["generate"]
    text, cut = writing.answer(system, prompt, content.get("max_tokens", 4096), pace.answer_tokens)
    finish = "MAX_TOKENS" if cut else "COMPLETE"
    counted = {"input_tokens": record.call.input_tokens, "output_tokens": tokens(text)}
    usage = {"billed_units": counted, "tokens": counted}
    if not record.call.streams:
        message = {"role": "assistant", "content": [{"type": "text", "text": text}]}
        whole = {"id": _id(record), "finish_reason": finish, "message": message, "usage": usage}
        return Body(200, whole)

    def event(kind: str, **more: Any) -> bytes:
        return data_frame({"type": kind, **more}, kind)

    started = {"message": {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": []}}
    return Events(
        [
            event("message-start", id=_id(record), delta=started),
            event(
                "content-start",
                index=0,
                delta={"message": {"content": {"type": "text", "text": ""}}},
            ),
        ],
        [
            event("content-delta", index=0, delta={"message": {"content": {"text": piece}}})
            for piece in writing.pieces(text, pace.frame_tokens)
        ],
        [
            event("content-end", index=0),
            event("message-end", delta={"finish_reason": finish, "usage": usage}),
            b"data: [DONE]\n\n",
        ],
        b'event: content-delta\ndata: {"type": "content-delta", "delta": {"mess\n\n',
        lambda _kind: event(
            "message-end",
            delta={
                "finish_reason": "ERROR",
                "error": "internal server error",
                "usage": usage,
            },
        ),
        headers,
    )


def error(status: int, message: str, headers: dict[str, str] | None = None) -> Body:
    """Cohere's error body: an id and a sentence, no code."""
    return Body(status, {"id": str(uuid.uuid4()), "message": message}, headers or {})


def key_error(key: str) -> Body | None:
    """What is said to a key that is none; None for one that is taken."""
    if not key or "invalid" in key or "leaked" in key:
        return refusal(FaultKind.KEY_INVALID, None, "")
    return None


def refusal(kind: FaultKind, retry_after: float | None, model: str) -> Body:
    """The answer to a call that fails in this way."""
    match kind:
        case FaultKind.RATE_LIMITED:
            headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
            message = "You are past the per minute request limit, please wait and try again later."
            return error(429, message, headers)
        case FaultKind.QUOTA_EXHAUSTED:
            return exceeded(Exceeded(True, "requests", 1000, 0.0), model)
        case FaultKind.KEY_LEAKED | FaultKind.KEY_INVALID:
            return error(401, "invalid api token")
        case FaultKind.NO_CREDIT:
            message = (
                "Please add or update your payment method at "
                "https://dashboard.cohere.com/billing?tab=payment to continue"
            )
            return error(402, message)
        case FaultKind.OVERLOADED:
            return error(503, "service unavailable, please try again later")
        case FaultKind.MODEL_UNKNOWN:
            message = (
                f"model '{model}' not found, make sure the correct model ID was used and that "
                "you have access to the model."
            )
            return error(404, message)
        case FaultKind.BLOCKED:
            return error(498, "your request was blocked: it contains a deny-listed token")
        case FaultKind.INVALID_REQUEST:
            return error(400, "invalid request: message must be at least 1 token long.")
        case _:
            message = "internal server error, this has been reported to our developers."
            return error(500, message)


def exceeded(quota: Exceeded, model: str) -> Body:
    """The answer to a call beyond a quota; Cohere's long one is of a month."""
    del model
    every = "month" if quota.daily else "minute"
    return error(
        429,
        f"You are using a Trial key, which is limited to {quota.limit} API calls / {every}. You "
        "can continue to use the Trial key for free or upgrade to a Production key with higher "
        "rate limits at 'https://dashboard.cohere.com/api-keys'. Contact us on "
        "'https://discord.gg/XW44jPfYJu' or email us at support@cohere.com with any questions",
    )
