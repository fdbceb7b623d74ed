"""Anthropic's wire format: `v1/messages` with prompt caching, errors."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from loadtest.simulator import writing
from loadtest.simulator.call import Call, tokens
from loadtest.simulator.faults import Fault, FaultKind
from loadtest.simulator.quotas import Exceeded
from loadtest.simulator.reply import Body, Events, data_frame
from loadtest.simulator.world import Record, World

PROVIDER = "anthropic"
ORGANISATION = "00000000-0000-4000-8000-000000000000"
SAMPLING = ("temperature", "top_p", "top_k")


def call_of(request: Request, content: dict[str, Any]) -> Call:
    """The call a request is."""
    texts = [text for text, _ in _blocks(content)]
    # The SDK sends the one since 2.0, everybody else the other.
    bearer = request.headers.get("authorization", "").removeprefix("Bearer").strip()
    return Call(
        PROVIDER,
        "generate",
        content.get("model", ""),
        request.headers.get("x-api-key", bearer),
        sum(tokens(text) for text in texts if text),
        streams=bool(content.get("stream")),
    )


def _blocks(content: dict[str, Any]) -> list[tuple[str, bool]]:
    """The prompt's texts in order, and whether each ends what is to be cached."""
    found: list[tuple[str, bool]] = []
    messages = content.get("messages", [])
    for part in [content.get("system", ""), *(message.get("content", "") for message in messages)]:
        if isinstance(part, str):
            found.append((part, False))
        else:
            found += [(block.get("text", ""), "cache_control" in block) for block in part]
    return found


def answer(
    world: World, record: Record, content: dict[str, Any], fault: Fault | None
) -> Body | Events:
    """What Anthropic says to a call that it takes."""
    del fault
    refused = [name for name in SAMPLING if name in content]
    if refused:
        return error(
            400, "invalid_request_error", f"`{refused[0]}` is not supported for this model."
        )
    if not content.get("max_tokens"):
        return error(400, "invalid_request_error", "max_tokens: Field required")
    blocks = _blocks(content)
    system = content.get("system", "")
    if not isinstance(system, str):
        system = "\n".join(block.get("text", "") for block in system)
    prompt = "\n".join(text for text, _ in blocks)
    pace = world.pace["generate"]
    text, cut = writing.answer(system, prompt, content["max_tokens"], pace.answer_tokens)
    usage = _usage(world, record.call, blocks)
    about = {"id": f"msg_sim{record.number:021d}", "type": "message", "role": "assistant"}
    headers = {"request-id": _request_id(record.number)}
    for metric, (limit, left) in world.quotas.left(record.call, world.now()).items():
        headers[f"anthropic-ratelimit-{metric}-limit"] = str(limit)
        headers[f"anthropic-ratelimit-{metric}-remaining"] = str(left)
    stop = "max_tokens" if cut else "end_turn"
    if not record.call.streams:
        whole = {
            **about,
            "model": record.call.model,
            "content": [{"type": "text", "text": text}],
            "stop_reason": stop,
            "stop_sequence": None,
            "usage": {**usage, "output_tokens": tokens(text)},
        }
        return Body(200, whole, headers)

    def event(kind: str, **more: Any) -> bytes:
        return data_frame({"type": kind, **more}, kind)

    message: dict[str, Any] = {
        **about,
        "model": record.call.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {**usage, "output_tokens": 1},
    }
    return Events(
        [
            event("message_start", message=message),
            event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
            event("ping"),
        ],
        [
            event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})
            for piece in writing.pieces(text, pace.frame_tokens)
        ],
        [
            event("content_block_stop", index=0),
            event(
                "message_delta",
                delta={"stop_reason": stop, "stop_sequence": None},
                usage={"output_tokens": tokens(text)},
            ),
            event("message_stop"),
        ],
        b'event: content_block_delta\ndata: {"type": "content_block_delta", "index": 0, "del\n\n',
        lambda kind: _failure(kind, record.number),
        headers,
    )


def _usage(world: World, call: Call, blocks: list[tuple[str, bool]]) -> dict[str, int]:
    """Tokens as Anthropic counts them: those of the cached prefix apart from the rest."""
    last = max((index for index, (_, ends) in enumerate(blocks) if ends), default=-1)
    prefix = "\x1f".join([call.key, call.model, *(text for text, _ in blocks[: last + 1])])
    cached = sum(tokens(text) for text, _ in blocks[: last + 1] if text)
    known = prefix in world.cached_prefixes
    if last >= 0:
        world.cached_prefixes.add(prefix)
    return {
        "input_tokens": call.input_tokens - cached,
        "cache_creation_input_tokens": 0 if known else cached,
        "cache_read_input_tokens": cached if known else 0,
    }


def _request_id(number: int) -> str:
    return f"req_{number:024d}"


def _failure(kind: FaultKind, number: int) -> bytes:
    if kind is FaultKind.BLOCKED:
        delta = {"stop_reason": "refusal", "stop_sequence": None}
        content = {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 1}}
        return data_frame(content, "message_delta") + data_frame(
            {"type": "message_stop"}, "message_stop"
        )
    body = refusal(kind, None, "").content
    return data_frame({**body, "request_id": _request_id(number)}, "error")


def error(
    status: int, name: str, message: str, headers: dict[str, str] | None = None, **details: str
) -> Body:
    """Anthropic's error body."""
    content: dict[str, Any] = {"type": name, "message": message}
    if details:
        content["details"] = details
    body = {"type": "error", "error": content, "request_id": _request_id(0)}
    return Body(status, body, {"request-id": _request_id(0), **(headers or {})})


def key_error(key: str) -> Body | None:
    """What is said to a key that is none; None for one that is taken."""
    if not key or "invalid" in key or "leaked" in key:
        return refusal(FaultKind.KEY_INVALID, None, "")
    return None


def refusal(kind: FaultKind, retry_after: float | None, model: str) -> Body:
    """The answer to a call that fails in this way."""
    match kind:
        case FaultKind.RATE_LIMITED:
            return (
                exceeded(Exceeded(False, "requests", 50, retry_after or 0.0), model)
                if (retry_after is not None)
                else error(429, "rate_limit_error", "Rate limited")
            )
        case FaultKind.QUOTA_EXHAUSTED:
            message = "You have reached your specified API usage limits."
            return error(
                429, "rate_limit_error", message, error_code="enforced_spend_limit_reached"
            )
        case FaultKind.KEY_LEAKED | FaultKind.KEY_INVALID:
            return error(401, "authentication_error", "invalid x-api-key")
        case FaultKind.NO_CREDIT:
            message = (
                "Your credit balance is too low to access the Anthropic API. Please go to Plans & "
                "Billing to upgrade or purchase credits."
            )
            return error(400, "invalid_request_error", message)
        case FaultKind.OVERLOADED:
            return error(529, "overloaded_error", "Overloaded")
        case FaultKind.MODEL_UNKNOWN:
            return error(404, "not_found_error", f"model: {model}")
        case FaultKind.INVALID_REQUEST | FaultKind.BLOCKED:
            message = "messages: at least one message is required"
            return error(400, "invalid_request_error", message)
        case _:
            return error(500, "api_error", "Internal server error")


def exceeded(quota: Exceeded, model: str) -> Body:
    """The answer to a call beyond a quota."""
    del model
    what = "input tokens" if quota.metric == "tokens" else "requests"
    every = "day" if quota.daily else "minute"
    message = (
        f"This request would exceed the rate limit for your organization ({ORGANISATION}) of "
        f"{quota.limit:,} {what} per {every}. For details, refer to: "
        "https://docs.anthropic.com/en/api/rate-limits. You can see the response headers for "
        "current usage. Please reduce the prompt length or the maximum tokens requested, or try "
        "again later."
    )
    headers = {
        "retry-after": f"{quota.retry_after:.0f}",
        f"anthropic-ratelimit-{what.replace(' ', '-')}-limit": str(quota.limit),
        f"anthropic-ratelimit-{what.replace(' ', '-')}-remaining": "0",
    }
    return error(429, "rate_limit_error", message, headers)
