"""Settings of the generation service."""

from pydantic import Field, field_validator

from meshkit.settings import ServiceSettings

LOCAL = "local"
"""The answerer that quotes and calls nobody; the last one, because it never fails."""


class GenerationSettings(ServiceSettings, service="generation"):
    """What generation can be told."""

    providers: str = "local"
    """Who answers, in the order they are tried, separated by commas, each a provider such as
    `gemini`, or `provider/model`. `local` quotes and comes last; without it an answer that no
    provider gives fails."""
    first_word_seconds: float = Field(10.0, gt=0)
    """Longest wait for a language model's first word, or for the next one, while another model
    could be asked."""
    interrupted: str = Field("continue", pattern="^(continue|restart|end)$")
    """When a language model fails in the middle of an answer: the next one goes on behind the whole
    sentences that stand (`continue`) or starts over (`restart`), and the reader is told; or the
    answer ends there with an error (`end`)."""
    release: str = Field("stream", pattern="^(stream|sentence|whole)$")
    """When text leaves the output filter: `stream`, `sentence` by sentence, or the `whole` answer
    after every check."""
    pieces_per_second: float = Field(250.0, gt=0)
    """Pieces of text that all answers of this process together are told in, a second, before each
    of them is told in fewer and longer ones; one answer never has more than 20."""
    longest_pause_seconds: float = Field(1.0, ge=0.05)
    """Longest wait for the next piece of an answer's text, however many are written."""
    helper: str = ""
    """Language model for cheap work, `provider/model`: it completes follow-up questions with their
    conversation. Empty takes the cheapest of the providers named above, `none` leaves it to
    rules."""
    prompt_tokens: int = Field(3000, ge=500, le=200_000)
    """Most tokens of sources that a language model reads, passages and what stands around them; a
    question that asks for one thing gets half."""
    rewrite_seconds: float = Field(3.0, gt=0)
    """Longest wait for a follow-up question to be completed; then rules do it."""
    answer_seconds: float = Field(30.0, gt=0)
    """Time an answer has when its caller sets no deadline."""
    passages: int = Field(8, ge=1, le=20)
    """Passages an answer is made from."""
    scored_sentences: int = Field(14, ge=2, le=64)
    """Sentences the local answerer has scored; each costs 6 to 11 ms of a core."""
    cache_hours: float = Field(24.0, ge=0)
    """How long an answer may be served again over an unchanged corpus; 0 turns the cache off."""
    semantic_cache_similarity: float = Field(0.0, ge=0, le=1)
    """Cosine from which a question in other words may be given the answer to one asked before, if
    it also has the same names, numbers and words that mean something; 0 turns that off."""
    conversation_days: float = Field(30.0, gt=0)
    """How long conversations, answers and feedback are kept after their last use."""

    @field_validator("providers")
    @classmethod
    def _in_order(cls, value: str) -> str:
        names = [name.strip() for name in value.split(",") if name.strip()]
        if not names or len(set(names)) != len(names):
            raise ValueError("names nobody" if not names else "names somebody twice")
        if LOCAL in names[:-1]:
            raise ValueError("names somebody behind local, who would never be asked")
        return ",".join(names)

    @property
    def language_models(self) -> list[str]:
        """The providers without `local`."""
        return [name for name in self.providers.split(",") if name != LOCAL]

    @property
    def quotes(self) -> bool:
        """Whether `local` answers when nobody else does."""
        return LOCAL in self.providers.split(",")
