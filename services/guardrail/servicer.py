"""The RPCs of the guardrail: messages in, pure rules, messages out."""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import grpc

from citemesh.guardrail import v1 as guardrail_v1
from meshkit.errors import InvalidInput, TooLarge
from services.guardrail import grounding, injection, input_policy, measures
from services.guardrail.findings import Category, Finding, Verdict
from services.guardrail.grounding import GroundingPolicy
from services.guardrail.input_policy import InputPolicy
from services.guardrail.scanner import redact_each
from services.guardrail.settings import GuardrailSettings
from services.guardrail.stream import OutputFilter, Release, Released

Context = grpc.aio.ServicerContext[Any, Any]

_CATEGORIES = {
    Category.PERSONAL_DATA: guardrail_v1.FINDING_CATEGORY_PERSONAL_DATA,
    Category.SECRET: guardrail_v1.FINDING_CATEGORY_SECRET,
    Category.PROMPT_INJECTION: guardrail_v1.FINDING_CATEGORY_PROMPT_INJECTION,
    Category.POLICY: guardrail_v1.FINDING_CATEGORY_POLICY,
}
_VERDICTS = {
    Verdict.ALLOW: guardrail_v1.VERDICT_ALLOW,
    Verdict.REDACT: guardrail_v1.VERDICT_REDACT,
    Verdict.BLOCK: guardrail_v1.VERDICT_BLOCK,
}
_RELEASES = {
    guardrail_v1.RELEASE_POLICY_UNSPECIFIED: Release.STREAM,
    guardrail_v1.RELEASE_POLICY_STREAM: Release.STREAM,
    guardrail_v1.RELEASE_POLICY_SENTENCE: Release.SENTENCE,
    guardrail_v1.RELEASE_POLICY_WHOLE: Release.WHOLE,
}


class GuardrailServicer(guardrail_v1.GuardrailServiceServicer):
    """Translates between the contract and the rules; holds no state between calls."""

    def __init__(self, settings: GuardrailSettings) -> None:
        self._input = InputPolicy(
            max_characters=settings.max_question_characters,
            block_score=settings.injection_block_score,
        )
        self._grounding = GroundingPolicy(overlap=settings.grounding_overlap)
        self._chunk_score = settings.chunk_block_score
        self._max_answer = settings.max_answer_characters

    async def CheckInput(
        self, request: guardrail_v1.CheckInputRequest, _context: Context
    ) -> guardrail_v1.CheckInputResponse:
        """Judges a question."""
        judgement = input_policy.judge(request.text, self._input)
        measures.judged("input", judgement.verdict, judgement.findings)
        return guardrail_v1.CheckInputResponse(
            verdict=_VERDICTS[judgement.verdict],
            text=judgement.text,
            findings=[_finding(finding) for finding in judgement.findings],
            reason=judgement.reason,
        )

    async def FilterOutput(
        self,
        request_iterator: AsyncIterator[guardrail_v1.FilterOutputRequest],
        _context: Context,
    ) -> AsyncIterator[guardrail_v1.FilterOutputResponse]:
        """Filters one answer while it streams."""
        output: OutputFilter | None = None
        findings: list[Finding] = []
        taken = 0
        ended = False
        async for message in request_iterator:
            event = message.WhichOneof("event")
            if (event == "start") == (output is not None) or ended:
                raise InvalidInput(
                    "FILTER_ORDER", "Send start first and once, then deltas, then end."
                )
            if event == "start":
                output = OutputFilter(_RELEASES[message.start.release])
                continue
            assert output is not None
            if event == "end":
                ended = True
                released = output.finish()
            else:
                taken += len(message.delta.text)
                self._fits(taken)
                released = output.push(message.delta.text)
            findings += released.findings
            for response in _released(released):
                yield response
        if not ended:
            raise InvalidInput("FILTER_ORDER", "The stream closed without end.")
        verdict = _judged_output(findings)
        yield guardrail_v1.FilterOutputResponse(
            summary=guardrail_v1.FilterSummary(verdict=_VERDICTS[verdict], redactions=len(findings))
        )

    def _fits(self, characters: int) -> None:
        if characters > self._max_answer:
            raise TooLarge(
                "ANSWER_TOO_LONG",
                f"An answer may have {self._max_answer:,} characters; ask for less.",
            )

    async def CheckGrounding(
        self, request: guardrail_v1.CheckGroundingRequest, _context: Context
    ) -> guardrail_v1.CheckGroundingResponse:
        """Judges an answer against its sources, and filters the quotes beside it."""
        quotes = self._shown(request.quotes)
        sources = {source.marker: source.text for source in request.sources}
        judged = grounding.check(request.answer, sources, request.question, self._grounding)
        measures.grounded(judged.share)
        return guardrail_v1.CheckGroundingResponse(
            sentences=[
                guardrail_v1.SentenceGrounding(
                    start=support.start,
                    end=support.end,
                    supported=support.supported,
                    markers=support.markers,
                    score=support.score,
                    reason=support.reason,
                )
                for support in judged.sentences
            ],
            groundedness=judged.share,
            quotes=quotes,
        )

    def _shown(self, quotes: Sequence[str]) -> list[str]:
        if not quotes:
            return []
        self._fits(sum(map(len, quotes)))
        shown, findings = redact_each(quotes)
        _judged_output(findings)
        return shown

    async def ScanChunks(
        self, request: guardrail_v1.ScanChunksRequest, _context: Context
    ) -> guardrail_v1.ScanChunksResponse:
        """Looks for instructions hidden in document text."""
        return guardrail_v1.ScanChunksResponse(scans=[self._scan(text) for text in request.texts])

    def _scan(self, text: str) -> guardrail_v1.ChunkScan:
        # Findings below the threshold are left out: ingestion stores every one as a flag.
        found = injection.scan_document(text)
        findings = [finding for finding in found if finding.score >= self._chunk_score]
        verdict = Verdict.BLOCK if findings else Verdict.ALLOW
        measures.judged("chunk", verdict, findings)
        return guardrail_v1.ChunkScan(
            findings=[_finding(finding) for finding in findings],
            verdict=_VERDICTS[verdict],
        )


def _judged_output(findings: Sequence[Finding]) -> Verdict:
    verdict = Verdict.REDACT if findings else Verdict.ALLOW
    measures.judged("output", verdict, findings)
    return verdict


def _released(released: Released) -> Iterator[guardrail_v1.FilterOutputResponse]:
    for finding in released.findings:
        yield guardrail_v1.FilterOutputResponse(finding=_finding(finding))
    if released.text:
        yield guardrail_v1.FilterOutputResponse(delta=guardrail_v1.FilterDelta(text=released.text))


def _finding(finding: Finding) -> guardrail_v1.Finding:
    return guardrail_v1.Finding(
        category=_CATEGORIES[finding.category],
        rule=finding.rule,
        score=finding.score,
        start=finding.start,
        end=finding.end,
    )
