"""The streaming filter gives the redaction of the whole text, however it is cut."""

from hypothesis import given, settings
from hypothesis import strategies as st

from services.guardrail.detectors import MAX_MATCH
from services.guardrail.findings import Finding
from services.guardrail.scanner import redact, redact_each, scan
from services.guardrail.stream import OutputFilter, Release

PIECES = [
    "ann@example.org",
    "a" * 70 + "@example.org",
    "4111 1111 1111 1111",
    "DE89 3704 0044 0532 0130 00",
    "GB29 NWBK 6016 1331 9268 19",
    "460-89-9847",
    "+49 30 1234 5678",
    "phone: 9472 7916",
    "(408) 996-1010",
    "AKIA" + "IOSFODNN7EXAMPLE",
    "sk-" + "Zk3" * 100,
    "eyJ" + "hbGciOiJIUzI1NiJ9." + "eyJ" + "zdWIi" * 80 + ".x_y-z",
    "-----BEGIN " + "PRIVATE KEY-----\nabc\n-----END " + "PRIVATE KEY-----",
    "-----BEGIN " + "EC PRIVATE KEY-----",
    "https://u:" + "pw@host/x",
    "x" * 300,
    "1,234,567,890",
    "Net sales rose. ",
    " ",
    "  ",
    "\n",
    ".",
    ",",
    "@",
    "+",
    "-",
    "2022",
    "A1",
    "中文。",
    "é",
]
TEXTS = st.lists(
    st.one_of(st.sampled_from(PIECES), st.text(alphabet="aA1 .@-+(/:_é中\n", max_size=6)),
    max_size=12,
).map("".join)


def stream(
    text: str, cuts: list[int], release: Release = Release.STREAM
) -> tuple[list[str], list[Finding], int]:
    output = OutputFilter(release)
    out: list[str] = []
    findings: list[Finding] = []
    held = 0
    places = sorted({min(cut, len(text)) for cut in cuts} | {len(text)})
    start = 0
    for place in places:
        released = output.push(text[start:place])
        out.append(released.text)
        findings += released.findings
        held = max(held, output.held)
        start = place
    released = output.finish()
    out.append(released.text)
    findings += released.findings
    return out, findings, held


@settings(max_examples=400, deadline=None)
@given(TEXTS, st.lists(st.integers(0, 900), max_size=40), st.sampled_from(Release))
def test_every_way_of_cutting_gives_the_redaction_of_the_whole(
    text: str, cuts: list[int], release: Release
) -> None:
    expected = list(scan(text))
    out, findings, _ = stream(text, cuts, release)
    assert "".join(out) == redact(text, expected)
    assert findings == expected


@settings(max_examples=60, deadline=None)
@given(TEXTS)
def test_one_character_at_a_time_is_no_different(text: str) -> None:
    expected = list(scan(text))
    out, findings, held = stream(text, list(range(len(text) + 1)))
    assert "".join(out) == redact(text, expected)
    assert findings == expected
    assert held <= 2 * MAX_MATCH


def test_no_part_of_a_match_leaves_before_it_is_complete() -> None:
    secret = "ann.smith@example.org"
    text = f"Write to {secret} today."
    out, _, _ = stream(text, list(range(len(text) + 1)))
    shown = ""
    for piece in out:
        shown += piece
        assert "ann" not in shown
    assert shown == "Write to [redacted: email] today."


def test_ordinary_words_leave_at_the_next_space() -> None:
    output = OutputFilter()
    assert output.push("The leave is ").text == "The leave is "
    assert output.push("thirty").text == ""
    assert output.push(" days").text == "thirty "


def test_sentences_and_whole_answers_are_held_as_the_policy_says() -> None:
    text = "First one. Second one. Third"
    out, _, _ = stream(text, list(range(len(text) + 1)), Release.SENTENCE)
    assert [piece for piece in out if piece] == ["First one. ", "Second one. ", "Third"]
    out, _, _ = stream(text, list(range(len(text) + 1)), Release.WHOLE)
    assert [piece for piece in out if piece] == [text]


def test_a_key_block_without_an_end_does_not_grow_the_buffer() -> None:
    output = OutputFilter()
    output.push("-----BEGIN " + "PRIVATE KEY-----\n")
    for _ in range(100):
        output.push("MIIE" * 15 + "\n")
        assert output.held <= 2 * MAX_MATCH


@settings(max_examples=400, deadline=None)
@given(st.lists(TEXTS, max_size=5))
def test_texts_beside_each_other_are_redacted_as_lines_of_one(texts: list[str]) -> None:
    joined = "\n".join(texts)
    shown, findings = redact_each(texts)
    assert findings == list(scan(joined))
    assert len(shown) == len(texts)
    if not any("\n" in joined[finding.start : finding.end] for finding in findings):
        assert "\n".join(shown) == redact(joined, findings)


def test_a_key_that_goes_on_in_the_next_text_is_hidden_there_too() -> None:
    begin, end = ("-----" + word + " PRIVATE KEY-----" for word in ("BEGIN", "END"))
    shown, findings = redact_each(
        [f"The key: {begin}", "MIIEpAIBAAKCAQEA", f"{end} is old.", "Yes."]
    )
    key = "[redacted: private key]"
    assert shown == [f"The key: {key}", key, f"{key} is old.", "Yes."]
    assert len(findings) == 1
