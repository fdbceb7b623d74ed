"""Calls to rerank: the cross-encoder's opinion on single sentences."""

from collections.abc import Sequence

from citemesh.rerank import v1 as rerank_v1
from services.generation.calibration import NOBODY
from services.generation.calls.finding import usage
from services.generation.weighing import Scores


class RerankCalls:
    """Scores sentences through the rerank service; see `extractive.Scorer`."""

    def __init__(self, stub: rerank_v1.RerankServiceAsyncStub) -> None:
        self._stub = stub

    async def score(self, question: str, texts: Sequence[str], *, seconds: float) -> Scores:
        """Logit per text; those that the time did not suffice for are missing.

        Raises:
            MeshError: when rerank cannot be reached.
        """
        request = rerank_v1.RerankRequest(
            query=question,
            passages=[
                rerank_v1.Passage(id=str(index), text=text) for index, text in enumerate(texts)
            ],
            whole_passages=True,
        )
        response = await self._stub.Rerank(request, timeout=seconds)
        by = response.usage
        return Scores(
            {result.index: result.logit for result in response.results},
            (usage(by),) if by.model else (),
            f"{by.provider}/{by.model}" if by.model else NOBODY,
            tuple(response.languages),
        )
