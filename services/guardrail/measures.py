"""What operators see of the guardrail: its verdicts, what it found, how well answers stand."""

from collections.abc import Iterable

from meshkit.telemetry import metrics
from services.guardrail.findings import Finding, Verdict

_verdicts = metrics.counter("citemesh.guardrail.verdicts")
_findings = metrics.counter("citemesh.guardrail.findings")
_groundedness = metrics.histogram("citemesh.guardrail.groundedness")


def judged(check: str, verdict: Verdict, findings: Iterable[Finding]) -> None:
    """Notes a verdict on an `input`, an `output` or a `chunk`, and what it rests on."""
    _verdicts.add(1, {"check": check, "verdict": verdict.value})
    for finding in findings:
        _findings.add(1, {"check": check, "category": finding.category.value})


def grounded(share: float) -> None:
    """Notes the share of an answer's sentences that its sources support, 0 to 1."""
    _groundedness.record(share)
