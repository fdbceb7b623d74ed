"""Gemini's wire format: `batchEmbedContents`, `streamGenerateContent`, models, errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request

from loadtest.simulator import embeddings, writing
from loadtest.simulator.call import Call, tokens
from loadtest.simulator.faults import Fault, FaultKind
from loadtest.simulator.quotas import Exceeded
from loadtest.simulator.reply import Body, Events, data_frame
from loadtest.simulator.world import Record, World

PROVIDER = "gemini"
DIMENSIONS = 3072
EMBEDDED_TOKENS = 2048
LIMITS = "https://ai.google.dev/gemini-api/docs/rate-limits"
ACTIONS = {
    "batchEmbedContents": "embed",
    "embedContent": "embed",
    "streamGenerateContent": "generate",
    "generateContent": "generate",
    "countTokens": "count",
}


def call_of(request: Request, content: dict[str, Any]) -> Call:
    """The call a request is."""
    model, _, action = request.path_params["action"].rpartition(":")
    texts = [_text(part) for part in content.get("requests", [])] or [
        _text({"content": part}) for part in content.get("contents", [])
    ]
    system = _text({"content": content.get("systemInstruction", {})})
    return Call(
        PROVIDER,
        ACTIONS.get(action, action),
        model,
        request.headers.get("x-goog-api-key", ""),
        sum(tokens(text) for text in [*texts, system] if text),
        streams=action == "streamGenerateContent",
    )


def _text(request: dict[str, Any]) -> str:
    return "".join(part.get("text", "") for part in request.get("content", {}).get("parts", []))


def answer(
    world: World, record: Record, content: dict[str, Any], fault: Fault | None
) -> Body | Events:
    """What Gemini says to a call that it takes."""
    if record.call.operation == "embed":
        return _embed(content, fault)
    if record.call.operation == "generate":
        return _generate(world, record, content, fault)
    return error(404, "NOT_FOUND", "Requested entity was not found.")


def _embed(content: dict[str, Any], fault: Fault | None) -> Body:
    requests = content.get("requests", [])
    if len(requests) > 100:
        return error(
            400,
            "INVALID_ARGUMENT",
            "* BatchEmbedContentsRequest.requests: at most 100 requests can be in one batch",
        )
    vectors = []
    for request in requests:
        wanted = request.get("outputDimensionality") or DIMENSIONS
        # Cut short and not normalised again, as the real model does below its full length.
        # What is beyond the model's limit is not read, and nobody is told.
        text = _text(request)[: EMBEDDED_TOKENS * 4]
        values = embeddings.vector(text, request.get("taskType", ""), wanted)
        vectors.append({"values": bent(values, fault)})
    return Body(200, {"embeddings": vectors})


def bent(values: list[float], fault: Fault | None) -> list[float]:
    """The vector as a fault leaves it."""
    match fault.kind if fault else None:
        case FaultKind.WRONG_DIMENSION:
            return values[:-1]
        case FaultKind.EMPTY_VECTOR:
            return []
        case FaultKind.ZERO_VECTOR:
            return [0.0] * len(values)
        case _:
            return values


def _generate(
    world: World, record: Record, content: dict[str, Any], fault: Fault | None
) -> Body | Events:
    call = record.call
    config = content.get("generationConfig", {})
    prompt = "\n".join(_text({"content": part}) for part in content.get("contents", []))
    system = _text({"content": content.get("systemInstruction", {})})
    pace = world.pace["generate"]
    text, cut = writing.answer(
        system, prompt, config.get("maxOutputTokens", 8192), pace.answer_tokens
    )
    prefix = f"{call.key} {system} {prompt.partition('<question>')[0]}"
    cached = tokens(prefix) if prefix in world.cached_prefixes else 0
    world.cached_prefixes.add(prefix)
    usage = {
        "promptTokenCount": call.input_tokens,
        "candidatesTokenCount": tokens(text),
        "thoughtsTokenCount": 16,
        "totalTokenCount": call.input_tokens + tokens(text) + 16,
    }
    if cached:
        usage["cachedContentTokenCount"] = min(cached, call.input_tokens)
    about = {"modelVersion": call.model, "responseId": f"sim-{record.number}"}

    def chunk(piece: str, finish: str = "") -> dict[str, Any]:
        candidate: dict[str, Any] = {
            "content": {"parts": [{"text": piece}], "role": "model"},
            "index": 0,
        }
        if finish:
            candidate["finishReason"] = finish
        return {"candidates": [candidate], "usageMetadata": usage, **about}

    if fault and fault.kind is FaultKind.BLOCKED and fault.after == 0:
        blocked = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": usage}
        blocked |= about
        frame = data_frame(blocked)
        return _events([], [], lambda _kind: frame) if call.streams else Body(200, blocked)
    finish = "MAX_TOKENS" if cut else "STOP"
    if not call.streams:
        return Body(200, chunk(text, finish))
    frames = [data_frame(chunk(piece)) for piece in writing.pieces(text, pace.frame_tokens)]
    return _events(frames, [data_frame(chunk("", finish))])


def _failure(kind: FaultKind) -> bytes:
    """The event in which Gemini reports what happened to a stream."""
    if kind is FaultKind.BLOCKED:
        candidate = {"content": {"parts": [], "role": "model"}, "finishReason": "SAFETY"}
        return data_frame({"candidates": [candidate]})
    body = refusal(kind, None, "")
    return data_frame(body.content)


def _events(
    text: list[bytes], closing: list[bytes], failure: Callable[[FaultKind], bytes] = _failure
) -> Events:
    return Events([], text, closing, b'data: {"candidates": [{"content": {"par\n\n', failure)


def error(
    status: int, name: str, message: str, details: list[dict[str, Any]] | None = None
) -> Body:
    """Google's error body."""
    content: dict[str, Any] = {"code": status, "message": message, "status": name}
    if details:
        content["details"] = details
    return Body(status, {"error": content})


def key_error(key: str) -> Body | None:
    """What is said to a key that is none; None for one that is taken."""
    if not key or "invalid" in key:
        return refusal(FaultKind.KEY_INVALID, None, "")
    return refusal(FaultKind.KEY_LEAKED, None, "") if "leaked" in key else None


def refusal(kind: FaultKind, retry_after: float | None, model: str) -> Body:
    """The answer to a call that fails in this way."""
    match kind:
        case FaultKind.RATE_LIMITED if retry_after is None:
            # Since 2024 also without any detail, when it is Google that is short of capacity.
            message = "Resource has been exhausted (e.g. check quota)."
            return error(429, "RESOURCE_EXHAUSTED", message)
        case FaultKind.RATE_LIMITED:
            return exceeded(Exceeded(False, "requests", 10, retry_after or 0.0), model)
        case FaultKind.QUOTA_EXHAUSTED:
            return exceeded(Exceeded(True, "requests", 250, 20.0), model)
        case FaultKind.KEY_LEAKED:
            message = "Your API key was reported as leaked. Please use another API key."
            return error(403, "PERMISSION_DENIED", message)
        case FaultKind.KEY_INVALID:
            message = "API key not valid. Please pass a valid API key."
            detail = {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "API_KEY_INVALID",
                "domain": "googleapis.com",
                "metadata": {"service": "generativelanguage.googleapis.com"},
            }
            return error(400, "INVALID_ARGUMENT", message, [detail])
        case FaultKind.NO_CREDIT:
            message = (
                "Gemini API free tier is not available in your country. Please enable billing on "
                "your project in Google AI Studio."
            )
            return error(400, "FAILED_PRECONDITION", message)
        case FaultKind.OVERLOADED:
            message = "The model is overloaded. Please try again later."
            return error(503, "UNAVAILABLE", message)
        case FaultKind.MODEL_UNKNOWN:
            message = (
                f"models/{model} is not found for API version v1beta, or is not supported for "
                "generateContent. Call ListModels to see the list of available models and their "
                "supported methods."
            )
            return error(404, "NOT_FOUND", message)
        case FaultKind.INVALID_REQUEST | FaultKind.BLOCKED:
            return error(400, "INVALID_ARGUMENT", "Request contains an invalid argument.")
        case _:
            message = (
                "An internal error has occurred. Please retry or report in "
                "https://developers.generativeai.google/guide/troubleshooting"
            )
            return error(500, "INTERNAL", message)


def exceeded(quota: Exceeded, model: str) -> Body:
    """The answer to a call beyond a quota."""
    metric = f"generativelanguage.googleapis.com/generate_content_free_tier_{quota.metric}"
    every = "Day" if quota.daily else "Minute"
    message = (
        "You exceeded your current quota, please check your plan and billing details. For more "
        f"information on this error, head to: {LIMITS}.\n* Quota exceeded for metric: {metric}, "
        f"limit: {quota.limit}, model: {model}\nPlease retry in {quota.retry_after:.9f}s."
    )
    kind = "InputTokens" if quota.metric == "tokens" else "Requests"
    name = "GenerateContentInputTokensPerModel" if kind == "InputTokens" else "GenerateRequests"
    scope = "" if kind == "InputTokens" else "PerProjectPerModel"
    return error(
        429,
        "RESOURCE_EXHAUSTED",
        message,
        [
            {
                "@type": "type.googleapis.com/google.rpc.Help",
                "links": [{"description": "Learn more about Gemini API quotas", "url": LIMITS}],
            },
            {
                "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                "violations": [
                    {
                        "quotaMetric": metric,
                        "quotaId": f"{name}Per{every}{scope}-FreeTier",
                        "quotaDimensions": {"location": "global", "model": model},
                        "quotaValue": str(quota.limit),
                    }
                ],
            },
            {
                "@type": "type.googleapis.com/google.rpc.RetryInfo",
                # A day's quota comes with the delay of a minute's, too.
                "retryDelay": f"{min(59.0, quota.retry_after):.3f}s",
            },
        ],
    )
