"""Which language a text is in, as far as stemming needs to know.

Function words decide first: they are quick to count, and the same words are the stop
words of both back ends. A wrong guess costs inflections, never a word: every
language's terms are searched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from meshkit import language

OTHER = "other"
"""A text whose language is not told: its words are indexed as they are."""

_WORDS = {
    "en": "a an and are as at be been but by can could did do does for from had has have how if "
    "in into is it its many much no not of on or should such that the their then there these "
    "they this to was were what when where which who whom why will with would",
    "de": "aber als am an auch auf aus bei bis das dass dem den der des die durch ein eine einem "
    "einen einer eines er es für hat ich ihr im in ist kann man mit nach nicht noch nur oder sich "
    "sie sind so über um und unter vom von vor war was welche welcher welches wenn wer werden wie "
    "wird wo wurde zu zum zur zwischen",
    "fr": "à au aux avec ce ces cette dans de des du elle en est et être il ils je la le les leur "
    "mais ne nous on ou où par pas plus pour qu que quel quelle qui sa se ses son sont sur un une "
    "vous",
    "es": "a al como con cuál cuándo cuántos de del dónde el ella en es esta este esto está fue "
    "ha hay la las lo los más no o para pero por qué que quién se ser sin sobre son su sus un una "
    "y",
    "it": "a al alla anche che chi ci come con da dal dei del della delle di dove e è gli ha i il "
    "in la le lo ma nel nella non o per più quale quando quanto si sono su un una",
    "pt": "a ao aos as com como da das de do dos e é ela ele em entre foi há isso mais mas na não "
    "nas no nos o os ou para pela pelo por qual quando que quem se sem seu sua são um uma",
    "nl": "aan als bij dat de deze die dit door een en er heeft het hij hoe hun ik in is kan maar "
    "met naar niet nog of om ook op over te tot uit van voor waar wat welke werd wie wordt zijn ze "
    "zij",
    "sv": "att av de den det efter eller en ett från för ha han har hur i inte kan med men när och "
    "om på som sig så till under var vad vem vid vilka vilken är",
    "da": "af at blev de den der det efter eller en er et for fra ham han har hun hvad hvem hvilke "
    "hvor hvordan i ikke jeg kan med men når og også om på sig skal som til var ved",
    "no": "av at ble da de den der det eller en er et etter for fra ha han har hun hva hvem "
    "hvilken hvor hvordan i ikke jeg kan med men når og også om på seg skal som til var ved",
    "fi": "ei että hän he ja jos joka jotka kanssa kuin kuinka kun mikä missä mitä mukaan mutta "
    "myös niin oli olla on ovat sekä se tai tämä vain voi",
    "ro": "a al ale aceasta care ce cel cine cu cum când câte că de din este fi fost în la mai nu "
    "o pe pentru prin sau se sunt și un unde unei unui",
    "tr": "ama bir bu çok da daha de en gibi göre hangi için ile ise kadar kaç kim mi ne nasıl "
    "neden nerede o olan olarak olduğu sonra ve veya zaman",
    "ru": "а бы был была были было в вы для до его ее если и из или их к как какой кто когда "
    "который которые мы на не но о он она они от по при с со так то что это",
    "hu": "a az azt csak de egy el és ez fel ha hogy hogyan is kell ki le meg mely melyik mi mint "
    "mit nem sem vagy van volt",
    "el": "από για δεν είναι η θα και με να ο οι που ποια ποιο ποιος πως πότε σε στη στην στο τα "
    "τη την της τι το τον του των",
    "ar": "أن إلى إن أو التي الذي على عن في كان لا ما مع من هذا هذه هل هو هي و كم متى أين لماذا",
}

STOP_WORDS: dict[str, tuple[str, ...]] = {
    code: tuple(words.split()) for code, words in _WORDS.items()
}
"""Function words by language; what every analyzer leaves out."""

LANGUAGES = tuple(STOP_WORDS)
"""ISO 639-1 codes that both back ends can stem."""

_LANGUAGES_OF = {
    word: [code for code, words in STOP_WORDS.items() if word in words]
    for word in {word for words in STOP_WORDS.values() for word in words}
}
LEAST_SHARE = 0.08
"""Share of function words below which they do not tell: names, numbers, a few words."""


def language_of(words: Sequence[str]) -> str:
    """The language of lower-case words, a code of `LANGUAGES` or `OTHER`.

    Where function words do not tell, the model of `meshkit.language` is asked: it is right
    more often and takes several times as long.
    """
    return by_function_words(words) or _supported(language.detect(" ".join(words)).code)


def by_function_words(words: Sequence[str]) -> str:
    """The language whose function words are the most frequent ones; empty when unclear."""
    counts = Counter(code for word in words for code in _LANGUAGES_OF.get(word, ()))
    first, second = [*counts.most_common(2), ("", 0), ("", 0)][:2]
    clear = first[1] > second[1] and first[1] >= LEAST_SHARE * len(words)
    return first[0] if clear else ""


def declared(code: str) -> str:
    """The language that a code such as `de-AT` names; `OTHER` for one not stemmed here."""
    return _supported(code.lower().replace("_", "-").partition("-")[0])


def _supported(code: str) -> str:
    return code if code in STOP_WORDS else OTHER
