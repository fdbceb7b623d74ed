"""Personal data and secrets are found, figures of filings are left alone."""

import pytest

from services.guardrail import checksums
from services.guardrail.scanner import redact, scan

# Put together at run time, so that no scanner takes them for secrets of this repository.
AWS = "AKIA" + "IOSFODNN7" + "EXAMPLE"
OPENAI = "sk-" + "proj-" + "Zk3" * 9
CITEMESH = "cmk_" + "9fj2" * 8
GITHUB = "ghp_" + "a1B2" * 9
GOOGLE = "AIza" + "Sy" + "aB3" * 11
TOKEN = ".".join(["eyJ" + "hbGciOiJIUzI1NiJ9", "eyJ" + "zdWIiOiIxMjM0NTY3ODkwIn0", "dBjftJeZ4CVP"])
KEY_BLOCK = "\n".join(
    [
        "-----BEGIN " + "RSA PRIVATE KEY-----",
        "MIIEpAIBAAKCAQEA" * 4,
        "-----END " + "RSA PRIVATE KEY-----",
    ]
)


def rules(text: str) -> list[str]:
    return [finding.rule for finding in scan(text)]


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        ("email", "ann.o'hara+x@mail.example.co.uk"),
        ("email", "Jürgen.Müller@beispiel.de"),
        ("phone", "+49 (0)30 1234-5678"),
        ("phone", "+1-984-182-0190"),
        ("phone", "(408) 996-1010"),
        ("phone", "345-899-3560x4587"),
        ("credit_card", "4111 1111 1111 1111"),
        ("credit_card", "3782-822463-10005"),
        ("credit_card", "5555555555554444"),
        ("iban", "DE89 3704 0044 0532 0130 00"),
        ("iban", "GB29NWBK60161331926819"),
        ("us_ssn", "460-89-9847"),
        ("aws_access_key", AWS),
        ("openai_api_key", OPENAI),
        ("citemesh_key", CITEMESH),
        ("github_token", GITHUB),
        ("google_api_key", GOOGLE),
        ("json_web_token", TOKEN),
        ("private_key", KEY_BLOCK),
    ],
)
def test_what_is_personal_or_secret_is_replaced_whole(rule: str, value: str) -> None:
    text = f"It says {value}, nothing else."
    findings = list(scan(text))
    assert [finding.rule for finding in findings] == [rule]
    assert text[findings[0].start : findings[0].end] == value
    expected = f"It says [redacted: {rule.replace('_', ' ')}], nothing else."
    assert redact(text, findings) == expected


def test_a_password_in_an_address_goes_and_the_host_stays() -> None:
    text = "Use postgres://app:" + "hunter2@db.example/main today."
    assert redact(text, list(scan(text))) == (
        "Use postgres://[redacted: url password]@db.example/main today."
    )


@pytest.mark.parametrize(
    "text",
    [
        "Total net sales were 82,959 81,434 304,182 296,128 in millions.",
        "Shares outstanding: 15,943,425,000 as of July 15, 2022.",
        "The amount of 1,234,567,890 and 408,996,1010 dollars.",
        "408 996 1010",
        "2022 2021 2020 2019",
        "4000 5000 6000 3000",
        "Commission File Number: 001-36743, IRS No. 94-2404110, zip 98109-5210",
        "Accession number 0000320193-22-000070",
        "fiscal 2022-2023-2024 under ASC 842-20-30-1, version 10.2.1.4",
        "$ (1,234) $ 2.50 - 3.45 +12.5% and (5,678)",
        "The balance of 4111111111111112 units",
        "IBAN of the form DE00 0000 0000 0000 0000 00",
        "000-12-3456 and 666-12-3456",
    ],
)
def test_figures_of_a_filing_are_no_personal_data(text: str) -> None:
    assert rules(text) == []


def test_bare_digits_are_a_phone_number_only_when_the_text_says_so() -> None:
    assert rules("9472 7916") == []
    assert rules("Phone: 9472 7916") == ["phone"]
    assert rules("Call me at 9498777106.") == ["phone"]
    assert rules("The hotel 9498777106") == []


def test_an_identifier_is_found_though_figures_follow_it() -> None:
    text = "4111 1111 1111 1111 123 and BE68 5390 0754 7034 2023"
    assert redact(text, list(scan(text))) == "[redacted: credit card] 123 and [redacted: iban] 2023"


def test_checksums_refuse_a_changed_digit() -> None:
    assert checksums.luhn("79927398713")
    assert not checksums.luhn("79927398714")
    assert checksums.iban("FR14 2004 1010 0505 0001 3M02 606")
    assert not checksums.iban("FR14 2004 1010 0505 0001 3M02 607")


def test_hostile_runs_of_one_character_are_scanned_in_linear_time() -> None:
    for unit in ("+1 ", "1", "a.", "A1 ", "x@", "(1) ", "eyJ", "://:"):
        assert len(list(scan(unit * 20_000))) >= 0
