"""`python -m services.guardrail`: serves until SIGTERM."""

from citemesh.guardrail import v1 as guardrail_v1
from meshkit.process import Process, run
from services.guardrail.servicer import GuardrailServicer
from services.guardrail.settings import GuardrailSettings


async def start(process: Process[GuardrailSettings]) -> None:
    """Builds the service; it needs nothing but its settings."""
    process.serve(
        guardrail_v1.add_GuardrailServiceServicer_to_server, GuardrailServicer(process.settings)
    )


if __name__ == "__main__":
    run(GuardrailSettings, start)
