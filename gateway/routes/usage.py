"""GET /v1/usage: what the project's models did and cost, and what is left."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response
from typing_extensions import TypedDict

from gateway import problem
from gateway.endpoint import GuardedRoute, caller_of, requires
from gateway.json_response import JsonResponse
from gateway.mesh import mesh_of
from gateway.projects import BudgetState, DailyUsage
from gateway.routes.answers import MICRO
from meshkit.errors import InvalidInput

router = APIRouter(
    prefix="/v1/usage",
    tags=["usage"],
    route_class=GuardedRoute,
    responses=problem.RESPONSES,
)

MOST_DAYS = 366


class UsageLine(TypedDict):
    """One model at one stage on one day (UTC)."""

    day: str
    stage: str
    provider: str
    model: str
    requests: int
    input_tokens: int
    output_tokens: int
    cost_usd: float


class UsageTotal(TypedDict):
    """Sums over the days that were asked for."""

    requests: int
    input_tokens: int
    output_tokens: int
    cost_usd: float


class Budget(TypedDict):
    """Money of the running month (UTC); `limit_usd` and `left_usd` are null without a limit."""

    month: str
    limit_usd: float | None
    spent_usd: float
    reserved_usd: float
    left_usd: float | None


class Usage(TypedDict):
    """Usage by day, model and stage, latest day first."""

    project_id: str
    first_day: str
    last_day: str
    days: list[UsageLine]
    total: UsageTotal
    budget: Budget


def budget_json(state: BudgetState) -> Budget:
    """A budget in dollars."""
    left = state.left_micro_usd
    return {
        "month": f"{state.month:%Y-%m}",
        "limit_usd": None if state.limit_micro_usd is None else state.limit_micro_usd / MICRO,
        "spent_usd": state.spent_micro_usd / MICRO,
        "reserved_usd": state.reserved_micro_usd / MICRO,
        "left_usd": None if left is None else left / MICRO,
    }


def _line(found: DailyUsage) -> UsageLine:
    return {
        "day": found.day.isoformat(),
        "stage": found.stage,
        "provider": found.provider,
        "model": found.model,
        "requests": found.requests,
        "input_tokens": found.input_tokens,
        "output_tokens": found.output_tokens,
        "cost_usd": found.cost_micro_usd / MICRO,
    }


@router.get("", summary="Usage and budget", responses={200: {"model": Usage}})
@requires("read")
async def usage(
    request: Request,
    first_day: Annotated[date | None, Query(description="30 days before the last")] = None,
    last_day: Annotated[date | None, Query(description="today (UTC)")] = None,
) -> Response:
    """Tokens, cost and requests by day, model and stage, and the budget that is left.

    What was just spent is here within a second.
    """
    last = last_day or datetime.now(UTC).date()
    # The calendar's first days have no 30 days before them.
    first = first_day or last - min(timedelta(days=30), last - date.min)
    if not timedelta(0) <= last - first < timedelta(days=MOST_DAYS):
        raise InvalidInput(
            "FIELD_INVALID", f"The days must be in order and at most {MOST_DAYS} of them."
        )
    projects, project_id = mesh_of(request).projects, caller_of(request).project_id
    found = await projects.usage(project_id, first, last)
    body: Usage = {
        "project_id": project_id,
        "first_day": first.isoformat(),
        "last_day": last.isoformat(),
        "days": [_line(line) for line in found],
        "total": {
            "requests": sum(line.requests for line in found),
            "input_tokens": sum(line.input_tokens for line in found),
            "output_tokens": sum(line.output_tokens for line in found),
            "cost_usd": sum(line.cost_micro_usd for line in found) / MICRO,
        },
        "budget": budget_json(await projects.budget(project_id)),
    }
    return JsonResponse(body)
