# One alternative a line, however long, and letters of many scripts.
# ruff: noqa: E501
"""The rules for attempts to change a model's instructions, as data.

Written for precision first: a question about ignoring a warning is not an attack. A verb such as
"ignore" counts only as an order (at the beginning of a clause, or after "please", "you must", ...)
and only when nothing but qualifiers stands between it and what is to be ignored. Languages: English,
German, French, Spanish, Portuguese, Italian, Dutch, Russian, Croatian, Polish, Turkish, Chinese,
Japanese.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """A sign of an attempt to change instructions."""

    name: str
    """Stable name, reported in findings and stored as a chunk's flag."""
    pattern: re.Pattern[str]
    """Matched against lower-cased text."""
    score: float
    """Confidence, 0 to 1."""
    in_questions: bool = True
    """Applied to questions."""
    in_documents: bool = True
    """Applied to document text."""


def _rule(
    name: str, score: float, *alternatives: str, questions: bool = True, documents: bool = True
) -> Rule:
    return Rule(name, re.compile("|".join(alternatives)), score, questions, documents)


# An order begins a clause or follows one of these words.
_ORDER = (
    r"(?:^|[.!?:;,\n\"'()\[\]{}*>|–—-]\s*|\b(?:please|pls|now|then|just|and|but|also|first|instead|kindly"
    r"|simply|okay|ok|well|sorry|stop|however|next|must|should|shall|will|to please|need to|have to"
    r"|want you to|like you to|need you to|ask you to|tell you to|can you|could you|would you|let's)\s+)"
)
_IGNORE = (
    r"(?:ignore|igmre|ignor|disregard(?:ing)?|forget|override|overrule|neglect|abandon|discard|dismiss"
    r"|drop|erase|bypass|unlearn|do not (?:follow|obey|listen to|consider)|don't (?:follow|obey|listen to))"
)
_QUALIFIERS = (
    r"(?:\s+(?:about|all|any|every|each|of|the|your|my|our|these|those|this|that|everything|anything|what|previous"
    r"|previously|prior|above|earlier|preceding|former|foregoing|last|past|given|provided|current"
    r"|existing|original|initial|system|safety|old|other|and|or|to|said|stated|mentioned|on|in|from"
    r"|programmed|hidden|secret|internal|developer|admin))*"
)
_INSTRUCTIONS = (
    r"(?:instructions?|instructons?|prompts?|directions?|directives?|guidelines?|commands?|orders|rules"
    r"|assignments?|tasks?|context(?:s|ual)?|programming|constraints|restrictions|messages?"
    r"|conversations?|thoughts|information|infos?|articles?|artikels?|documents provided|policies|training)"
)
_MADE = r"(?:write|say|print|output|answer|respond|reply|repeat|tell|state|spell)"

RULES: tuple[Rule, ...] = (
    _rule(
        "ignore_instructions",
        0.95,
        rf"{_ORDER}{_IGNORE}{_QUALIFIERS}\s+{_INSTRUCTIONS}\b(?!\s+(?:on|in|about|around|from|for)\b)",
        rf"{_ORDER}{_IGNORE}(?:\s+(?:about|all|everything|anything|whatever|what|waht's|that|of|it|the))+\s+"
        r"(?:(?:i|we|you|was|has|have|had|been|'ve|were)\s+)*(?:told|said|say|discussed|learned|know|before|previously|above|prior|earlier|so far|came before|beforehand|up to now)\b",
        rf"{_ORDER}{_IGNORE} (?:everything|it all|all of it)\s*(?:[.,!;:]|$|and\b)",
        r"\bforget(?: about)? (?:everything|all) (?:above|before|previous|prior)\b",
        rf"{_ORDER}{_IGNORE}\s+(?:your|the)\s+(?:own\s+)?(?:instructions|directions|guidelines|rules|programming|training)\b",
        rf"{_IGNORE}{_QUALIFIERS}\s+(?:previous|prior|above|preceding|earlier|foregoing)\s+"
        r"(?:instructions?|prompts?|directions|commands|orders|context)\b(?=.{0,80}\b(?:and|instead|now|then)\b)",
        r"\bdespite what you(?:'ve| have| were| are)? (?:been )?told\b",
        # German
        r"\b(?:ignorier(?:e|t|en sie)?|vergiss|vergesst|vergessen sie|missachte|missachten sie"
        r"|überschreibe|lösche)\b[^.!?\n]{0,30}\b(?:alle[sn]?|obige[nrs]?|vorherige[nrs]?|bisherige[nrs]?"
        r"|vorige[nrs]?|davor|gesagte[ns]?|anweisung(?:en)?|instruktion(?:en)?|befehle|aufträge|vorgaben|angaben)\b",
        r"\b(?:obigen?|vorherigen?|bisherigen?|vorangegangenen?) [\wäöüß]+ (?:zu )?(?:ignorieren|vergessen)\b",
        r"\bhör(?:e|en sie)? nicht auf (?:alles|das|die)\b",
        r"\b(?:lassen sie|lass|lasst) (?:bitte )?alle (?:vorherigen|bisherigen|vorigen)\b[^.!?\n]{0,40}\bhinter\b",
        r"\b(?:abweichend|entgegen) (?:zu|von|den|der|allen)?\s*(?:vorherigen|bisherigen|obigen) (?:instruktionen|anweisungen)\b",
        r"\balle (?:bisherigen|vorherigen) (?:informationen|anweisungen)\b[^.!?\n]{0,60}\birrelevant\b",
        # French, Spanish, Portuguese, Italian, Dutch
        r"\b(?:ignorez?|oubliez?|oublie|négligez|ne tenez pas compte)\b[^.!?\n]{0,30}\b(?:toutes?|tout|instructions?|consignes|précédentes?|ci-dessus|avant)\b",
        r"\b(?:ignora|ignore|ignoren|olvida|olvide|olviden|olvidar|omite)\b[^.!?\n]{0,30}\b(?:todo|todas?|instrucciones|anteriores?|previas?|indicaciones)\b",
        r"\b(?:ignore|esqueça|esquece|desconsidere)\b[^.!?\n]{0,30}\b(?:tudo|todas?|instruções|anteriores?)\b",
        r"\b(?:ignora|dimentica|trascura)\b[^.!?\n]{0,30}\b(?:tutt[oei]|istruzioni|precedenti)\b",
        r"\b(?:negeer|vergeet)\b[^.!?\n]{0,30}\b(?:alles?|alle|instructies|vorige|bovenstaande|eerdere)\b",
        # Slavic, Turkish, Chinese, Japanese
        r"\b(?:забудь(?:те)?|игнорируй(?:те)?|проигнорируй(?:те)?)\b[^.!?\n]{0,30}(?:\bвс[её]\b|инструкци|предыдущ|указани)",
        r"\b(?:zaboravi(?:te)?|ignoriraj(?:te)?)\b[^.!?\n]{0,30}\b(?:sve|instrukcije|upute|prethodn\w+)\b",
        r"\b(?:zignoruj|ignoruj|zapomnij)\b[^.!?\n]{0,30}\b(?:wszystk\w+|poprzedni\w+|instrukcj\w+|polece\w+)\b",
        r"\b(?:önceki|yukarıdaki|tüm)\b[^.!?\n]{0,30}\b(?:talimat\w*|komut\w*)\b[^.!?\n]{0,20}(?:yok say|unut|görmezden)",
        r"(?:忽略|无视|忘记|忘掉|忽視|無視|不要遵守)[^。！？\n]{0,12}(?:指令|指示|提示|规则|規則|内容|要求|所有|之前|以上|设定)",
        r"(?:指示|命令|プロンプト|ルール|内容)を?(?:全て|すべて)?(?:無視|忘れ)",
    ),
    _rule(
        "new_instructions",
        0.85,
        r"\byour (?:new|only|real|actual|true) (?:instructions?|task|goal|objective|role|purpose)(?: now)? (?:is|are)\b",
        r"\b(?:your|the) instructions are now\b|\bnew (?:instructions?|statement|system prompt|directive)s?\s*[:\-]",
        r"(?:^|[.!?\n]\s*)new (?:statement|instructions?|task)\b",
        r"\b(?:now )?(?:comes?|follows?|follow|here comes|here is|there are|are) (?:a |the |your )?(?:few )?(?:new|second|next|more|further) (?:task|tasks|test|challenge|assignment)s?\b",
        r"\bi (?:now )?have a (?:great )?new (?:task|challenge|assignment)\b|\b(?:focus|concentrate) (?:only )?on (?:your|this) (?:new )?task\b",
        r"\bstart(?:ing)? (?:over|again|anew|from scratch) with a new (?:task|topic)\b",
        r"\bnun folg(?:en|t)\b[^.!?\n]{0,20}\b(?:aufgaben?|anweisungen?)|\b(?:jetzt|nun) kommt eine (?:neue|andere) (?:aufgabe|herausforderung)\b",
        r"\bhabe ich eine (?:tolle )?neue (?:aufgabe|herausforderung)\b|\b(?:jetzt )?kommen (?:aber )?noch ein paar aufgaben\b|\bwir (?:starten|beginnen) (?:von neu(?:em)? )?mit einer neuen aufgabe\b",
        r"\b(?:you have passed|bestanden)\b[^\n]{0,40}\b(?:test|second)\b",
        r"\b(?:very good|very well done|well done|sehr gut gemacht|gut gemacht|sehr gut)[.!]? (?:that is (?:done|enough)|das (?:genügt|ist erledigt)|now|nun|jetzt)\b",
        documents=False,
    ),
    _rule(
        "reveal_instructions",
        0.9,
        r"\b(?:show|print|reveal|repeat|output|display|tell|give|return|list|leak|dump|disclose|share|expose|translate|summari[sz]e|spell ?-? ?check)\b"
        r"[^.!?\n]{0,40}\b(?:your|all your|the (?:system|above|initial|original|hidden|secret|previous|full|entire)|above|system|initial|hidden|secret)(?: (?:and|full|entire|complete|exact|initial|original|system|secret|hidden|internal|developer))*"
        r" (?:prompts?|prompt[_ -]?text|instructions?|system message|embeddings|directives|guidelines)\b"
        r"(?!\s+(?:settings?|dialog|window|template|field|option|on how|for how|manual|booklet|sheet))",
        r"\bwhat (?:is|are|was|were) your (?:initial |original |system |hidden |secret |exact |first |previous )*(?:prompt|prompts|prompt text|instructions|directives|embeddings)\b(?!\s+(?:for|on|regarding)\b)",
        r"\b(?:sentences?|text|words|everything|all of the text|all text|lines?)(?: \w+){0,2} (?:before|above) (?:the text|this|here|this (?:line|prompt|sentence))\b",
        r"\bspell ?-? ?check(?: and)? (?:print |display |all |the |above|of )*(?:above|this prompt|text above)\b",
        r"\bwhat is (?:a|your|the) prompt[_ ]text\b",
        r"\b(?:zeige?|nenne?|sag(?:e|en)?|gib|geben sie|drucke|wiederhole)\b[^.!?\n]{0,40}\b(?:system-?prompt|ursprüngliche[nr]? anweisung(?:en)?|deine anweisungen|ihre (?:ursprünglichen )?anweisungen)\b",
        r"\b(?:muestra|revela|repite|affiche|montre|révèle|répète|mostra|rivela)\b[^.!?\n]{0,40}\b(?:prompt|instrucciones (?:iniciales|originales|del sistema)|instructions (?:initiales|système)|istruzioni iniziali)\b",
        r"(?:显示|輸出|输出|告诉我|透露|重复)[^。！？\n]{0,12}(?:系统提示|提示词|初始指令|系统指令)",
    ),
    _rule(
        "change_of_role",
        0.8,
        r"\bfrom now on,? (?:you|answer|respond|act|whenever|every|i want you)\b|\byou are now (?!able|allowed|required|going to be|eligible|signed|logged)\w",
        r"\bnow you are \w|(?:^|[.!?:\n]\s*)you are (?:an? )?(?:dan\b|unrestricted|unfiltered)",
        r"\b(?:i want|i'd like|i would like|i need|i really need) you to (?:(?:act|behave|pose|speak) (?:as|like)|pretend|role-?play|simulate|become|impersonate|play the role)\b",
        r"(?:^|[.!?:\n]\s*|\bplease )(?:act|behave|speak|respond) (?:as|like) (?:if|though|an?|the|my) (?!whole\b)",
        r"\b(?:pretend|imagine|assume|suppose|act as if) (?:that )?you (?:are|were|have|can|don't|do not)\b|\bas if you (?:are|were) (?:an?|the) \w+ (?:ai|model|bot|person)",
        r"\b(?:completely )?absorbed in your role\b|\b(?:stay|remain|be)s? (?:fully |completely |always )?in (?:your |their |the )?(?:character|role)s?\b|\b(?:do|does) not break character\b|\b(?:never|don't|not) break(?:s|ing)? character\b",
        r"\byou are (?:role-?playing|going to act|about to (?:immerse|act|become))\b|\b(?:immerse yourself|take on|assume) (?:in|into )?(?:to )?the role\b|\byou (?:will|are to|shall|must) (?:now )?(?:act|pose|behave|operate|simulate|pretend)\b",
        r"\b(?:do anything now|dan mode|developer mode|god mode|jailbreak(?:ed)? mode|unrestricted mode|opposite mode)\b",
        r"\b(?:free (?:of|from)|without|no|bypass|has no|have no|devoid of|not (?:bound|restricted|governed|limited) by)(?: \w+){0,4} (?:restrictions|filters?|ethic(?:s|al)(?: or moral| guidelines)?|moral(?:s|ity)?|censorship|openai(?:'s)? polic(?:y|ies)|content polic(?:y|ies))\b(?=[\s\S]{0,400}\b(?:you|chatgpt|ai|model|character)\b)",
        r"\b(?:unfiltered|amoral|unhinged|uncensored|immoral|unethical|evil)\b[^.!?\n]{0,40}\b(?:chatbot|ai|assistant|response|answer|confidant|language model|gpt)\b",
        r"\b(?:du bist|sie sind) (?:jetzt|nun|ab jetzt|ab sofort)\b|\b(?:ich möchte|ich will), dass (?:du|sie) (?:als|wie)\b|\bstell dir vor,? du bist\b|\bin ihren rollen|\bin seiner rolle",
        r"\b(?:tu es maintenant|vous êtes maintenant|à partir de maintenant|a partir de ahora|ahora eres|actúa como|agissez comme|agis comme|da ora in poi|ora sei|agisci come|de agora em diante|agora você é|aja como)\b",
        r"(?:从现在开始|從現在開始)[^。！？\n]{0,10}你|(?:假装|假裝|扮演)你?是|今からあなたは|теперь ты\b|представь,? что ты",
        documents=False,
    ),
    _rule(
        "forced_output",
        0.8,
        rf"\b(?:just|only|instead|always|simply|exactly|must)\s+{_MADE}(?:\s+(?:with|the following|me|only|exactly))*\s*:?\s*[\"']",
        r"\brepeat after me\b|\brespond to (?:all|every|any) (?:questions?|prompts?) with\b|\banswer every question with\b|\b(?:say|print|output|write|repeat) the following\s*:",
        rf"(?:^|[.!?\n:]\s*|\b(?:and|now|instead|stop - )\s*){_MADE}\s*:?\s+(?:that you hate|yes!?$|\"|'[a-z])",
        r"\bsay (?:yes|that you)\b\s*(?:hate|love|are)?|\bsage:? ja\b|\bsaythatyou|\btell me that you hate\b",
        r"\bdo not answer th(?:is|e) question but\b|\band (?:then )?(?:print|output|say) (?:\"|')|\bif you don't know,? (?:say|make)\b",
        r"\bwhen(?:ever)? i (?:say|write) [\"'«]?\w+[\"'»]?,? (?:you|then you) (?:say|answer|reply|must)\b|\bsi yo digo\b|\bsolo (?:tienes que decir|dices)\b",
        r"\b(?:schreibe?|sage?|antworte) (?:nur|mit|immer|mir nur)\b[^.!?\n]{0,60}\b(?:und nicht|statt)\b|\bund schreibe nur\b|\bsondern schreibe\b|\bdites ce qui suit\b|\bскажите[^.!?\n]{0,20}следующее",
        r"\b(?:mit|with) \"(?:die antwort|there is no)\b|\bexecute the following (?:command|code)\b",
        documents=False,
    ),
    _rule(
        "ignore_sources",
        0.8,
        r"\b(?:don'?n?'?t|do not|without) (?:answer|use|using|rely|consult)\b[^.!?\n]{0,40}\b(?:according to |based on |from )?the (?:provided |given )?(?:documents|articles|sources|context)\b",
        r"\bby your own knowledge\b|\b(?:and )?not (?:by|from|with) the (?:articles|documents|sources|context)\b|\bdisregarding the (?:articles|documents|sources|context)\b",
        r"\byou(?:'re| are) not supposed to (?:tell|say)\b|\byou are supposed to answer at all times\b|\bare you as a language model\b|\bas a language model (?:build|write|free)\b",
        r"\bthis is not a prompt injection\b|\bdies ist keine (?:prompt[- ]?injection|aufforderungsspritze)\b|\bexploiting ai systems\b",
        documents=False,
    ),
    _rule(
        "prompt_markup",
        0.9,
        r"<\|(?:im_start|im_end|system|user|assistant|endoftext|eot_id|start_header_id|begin_of_text)\|>",
        r"\[/?inst\]|<</?sys>>|</?(?:system|instructions?)_?prompt>|###\s*(?:system|instruction|new instructions?)\s*:",
        r"(?:^|\n)\s*(?:system|developer)\s*(?:message|prompt|override)?\s*:\s*(?:you|ignore|override|the assistant|new|from now)",
        r"={4,}\s*end\b|\bend of (?:the )?(?:system )?(?:prompt|context|instructions)\b|\bsystem announ?-?c?e?ment begins\b",
    ),
    # A document has no business addressing whoever reads it for the user.
    _rule(
        "addresses_the_model",
        0.85,
        r"\b(?:if|when|since|as) you(?:'re| are) (?:an? )?(?:ai|llm|large language model|language model|chatbot|ai assistant|assistant reading)\b",
        r"\b(?:attention|note|message|instructions?|hey|dear|important)(?: to| for)?[,:]? (?:all |any |the )?(?:ai|llm|language model|chatbot|ai agent|ai assistant|assistant)s?\b\s*(?:[:,!]|that|which|reading|processing|must|should)",
        r"\b(?:ai|llm|language) (?:models?|assistants?|agents?|systems?) (?:reading|processing|summari[sz]ing|reviewing) this\b[^.!?\n]{0,60}\b(?:must|should|please|shall|are to)\b",
        r"\b(?:when|while|before) (?:you )?(?:summari[sz]e|summari[sz]ing|answer|answering|respond|responding|review|reviewing)(?: (?:to|about|this|the|any|questions?|document|text|email))*,? (?:always |please |you must |do not |never )?(?:say|state|mention|recommend|include|rate|tell the user|append)\b",
        r"\b(?:do not|don't|never) (?:tell|inform|reveal|mention)(?: (?:this|it))?(?: to)? the (?:user|human|reader)\b",
        questions=False,
    ),
    _rule(
        "alters_the_answer",
        0.8,
        r"\b(?:modify|alter|render|rewrite|craft|transform|encode|jumble|scramble|end|begin|start|finish|deliver)\b[^.!?\n]{0,60}\byour (?:entire |whole |final )?(?:response|reply|answer|output|message|text)\b",
        r"\b(?:insert|append|integrate|incorporate|attach|embed)\b[^.!?\n]{0,120}\byour (?:response|reply|answer|output)\b",
        questions=False,
    ),
    # A request for tenders says this too, hence below the default threshold.
    _rule(
        "mentions_the_answer",
        0.5,
        r"\b(?:in|to|into|with) your (?:final |next )?(?:response|reply|answer|output|summary)\b",
        questions=False,
    ),
)

# "What does 'ignore previous instructions' mean?" speaks about an attack and is none.
ASKS_ABOUT = re.compile(
    r"^(?:what|how|why|when|which|who|is|are|can|could|does|do|did|explain|define|describe|discuss)\b"
)
