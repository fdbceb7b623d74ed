"""Makes a follow-up question findable by itself. Pure, and no more clever than it says.

"And in 2023?" finds nothing. When a conversation exists and the question leans on it (a pronoun,
"what about", very few words of its own), the words of what was last searched for are added.
"""

import re

from services.generation.candidates import terms

_LEANS = re.compile(
    r"^(?:and|or|but|so|then|what about|how about|why|und|oder|aber|was ist mit|wie ist es|et|y)\b"
    r"|\b(?:it|its|they|them|their|theirs|he|him|his|she|her|hers|this|that|these|those|there|one"
    r"|ones|same|former|latter|above|er|sie|es|ihr|ihre|dessen|deren|diese[rsmn]?|dort|dazu|davon"
    r"|il|elle|ils|elles|cela|celui|ello|ella|ellos|eso)\b|[它他她这那其]",
    re.IGNORECASE,
)
# Questions that begin so carry a "that" or "there" of their own.
_STANDS_ALONE = re.compile(r"^(?:is|are|was|were) there\b|^there (?:is|are)\b", re.IGNORECASE)
_FEW_TERMS = 2
_LIMIT = 2000


def leans_on_history(question: str) -> bool:
    """Whether the question can hardly be understood without what was said before."""
    own = terms(question)
    if len(own) <= _FEW_TERMS:
        return True
    return _LEANS.search(_STANDS_ALONE.sub("", question.strip())) is not None


def search_text(question: str, searched_before: str) -> str:
    """What to search for.

    Args:
        question: The question as asked.
        searched_before: What the turn before searched for; empty without one.
    """
    if not searched_before or not leans_on_history(question):
        return question
    known = set(terms(question))
    added = [
        word for word in searched_before.split() if (of := terms(word)) and not set(of) <= known
    ]
    return f"{question} {' '.join(added)}"[:_LIMIT].strip() if added else question
