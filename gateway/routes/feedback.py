"""POST /v1/feedback: what a user thought of an answer."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from citemesh.generation import v1 as generation_v1
from gateway import problem
from gateway.bodies import FeedbackBody
from gateway.endpoint import GuardedRoute, requires
from gateway.mesh import mesh_of
from gateway.routes import idempotency

router = APIRouter(
    prefix="/v1/feedback",
    tags=["answers"],
    route_class=GuardedRoute,
    responses=problem.RESPONSES,
)


@router.post("", status_code=204, summary="Rate an answer")
@requires("read")
async def feedback(request: Request, body: FeedbackBody) -> Response:
    """Records a rating; the answers' quality is measured by it."""
    await mesh_of(request).generation.RecordFeedback(
        generation_v1.RecordFeedbackRequest(
            answer_id=body.answer_id,
            rating=body.rating,
            comment=body.comment,
            request_id=idempotency.request_id(request),
        )
    )
    return Response(status_code=204)
