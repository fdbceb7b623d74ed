"""What an answer says when the sources do not hold it, in the language of the question. Pure."""

from meshkit import language

NOT_FOUND = "I could not find this in the documents."
_SENTENCES = {
    "en": NOT_FOUND,
    "de": "Das habe ich in den Dokumenten nicht gefunden.",
    "fr": "Je n'ai pas trouvé cela dans les documents.",
    "es": "No he encontrado esto en los documentos.",
    "it": "Non ho trovato questo nei documenti.",
    "pt": "Não encontrei isto nos documentos.",
    "nl": "Dit heb ik niet in de documenten gevonden.",
    "pl": "Nie znalazłem tego w dokumentach.",
    "ru": "В документах я этого не нашёл.",
    "tr": "Bunu belgelerde bulamadım.",
    "zh": "我在文档中没有找到相关内容。",
    "ja": "文書の中には見つかりませんでした。",
    "ko": "문서에서 찾을 수 없었습니다.",
}
_SURE = 0.8
"""Probability from which a language other than English is believed: three English words may look
like another language."""


def not_found(question: str) -> str:
    """The sentence in the question's language; in English where that is not known."""
    spoken = language.detect(question)
    if spoken.probability < _SURE:
        return NOT_FOUND
    return _SENTENCES.get(spoken.code, NOT_FOUND)


def says_not_found(text: str) -> bool:
    """Whether an answer begins with that sentence, in whichever language."""
    return text.strip().startswith(tuple(_SENTENCES.values()))
