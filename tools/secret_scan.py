"""Finds credentials in the project's files, with detect-secrets and without a network.

What is known to be none is listed in `tools/secret_scan.toml` by a hash, so that
the list holds no secrets and does not care about line numbers. A finding is
printed with the entry that would allow it. In `tests/` only things with the form
of a real credential count: tests make up passwords. A line may also say why it is
harmless with `# pragma: allowlist secret`.
"""

from __future__ import annotations

import hashlib
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from detect_secrets.core.potential_secret import PotentialSecret
from detect_secrets.core.scan import scan_file
from detect_secrets.settings import transient_settings

from tools.tree import ROOT, files, text_of

ALLOWED = ROOT / "tools" / "secret_scan.toml"

FORMS = (
    "ArtifactoryDetector",
    "AWSKeyDetector",
    "AzureStorageKeyDetector",
    "CloudantDetector",
    "DiscordBotTokenDetector",
    "GitHubTokenDetector",
    "GitLabTokenDetector",
    "IbmCloudIamDetector",
    "JwtTokenDetector",
    "MailchimpDetector",
    "NpmDetector",
    "OpenAIDetector",
    "PrivateKeyDetector",
    "PypiTokenDetector",
    "SendGridDetector",
    "SlackDetector",
    "SquareOAuthDetector",
    "StripeDetector",
    "TelegramBotTokenDetector",
    "TwilioKeyDetector",
)
"""Detectors of things that have a form of their own."""

GUESSES: tuple[dict[str, object], ...] = (
    {"name": "BasicAuthDetector"},
    {"name": "KeywordDetector"},
    {"name": "Base64HighEntropyString", "limit": 4.5},
    {"name": "HexHighEntropyString", "limit": 3.0},
)
"""Detectors of what looks like a secret by its surroundings or its randomness."""

FILTERS = (
    "detect_secrets.filters.allowlist.is_line_allowlisted",
    "detect_secrets.filters.heuristic.is_indirect_reference",
    "detect_secrets.filters.heuristic.is_likely_id_string",
    "detect_secrets.filters.heuristic.is_potential_uuid",
    "detect_secrets.filters.heuristic.is_prefixed_with_dollar_sign",
    "detect_secrets.filters.heuristic.is_sequential_string",
    "detect_secrets.filters.heuristic.is_templated_secret",
)
"""None of them verifies a finding against the service it would open: no network."""


PLACEHOLDERS = {"password", "secret", "key"}
"""What a documented address has where its password would be."""
NAME = re.compile(r"citemesh(-[a-z]+)+")
"""Name of one of our Secrets in Kubernetes, which is where a secret is and not what it is."""
CHECKSUM = re.compile(r"sha256", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Found:
    """Something that looks like a credential."""

    path: Path
    line: int
    kind: str
    fingerprint: str

    @property
    def entry(self) -> tuple[str, str]:
        """What allows it."""
        return (str(self.path), self.fingerprint)


def fingerprint(secret: PotentialSecret) -> str:
    """Enough of a hash to name a value without giving it away."""
    return hashlib.sha256((secret.secret_value or "").encode()).hexdigest()[:16]


def settings(path: Path) -> dict[str, list[dict[str, object]]]:
    """What a file is scanned for."""
    forms: list[dict[str, object]] = [{"name": name} for name in FORMS]
    guesses = [] if path.parts[0] == "tests" else list(GUESSES)
    return {
        "plugins_used": forms + guesses,
        "filters_used": [{"path": name} for name in FILTERS],
    }


def is_published(secret: PotentialSecret, line: str) -> bool:
    """Whether the value says by itself that it is no secret: a checksum, a placeholder, a name."""
    if secret.type == "Hex High Entropy String":
        return bool(CHECKSUM.search(line))
    if NAME.fullmatch(secret.secret_value or ""):
        return True
    return secret.secret_value in PLACEHOLDERS


def scan(path: Path) -> Iterator[Found]:
    """Everything in one file."""
    lines = (ROOT / path).read_text("utf-8", errors="replace").split("\n")
    with transient_settings(settings(path)):
        for secret in scan_file(str(ROOT / path)):
            # The scanner miscounts lines of YAML in braces, beyond the end of a short file.
            line = lines[min(secret.line_number, len(lines)) - 1]
            if not is_published(secret, line):
                yield Found(path, secret.line_number, secret.type, fingerprint(secret))


def allowed() -> set[tuple[str, str]]:
    """Path and fingerprint of what was looked at and is no secret."""
    entries = tomllib.loads(ALLOWED.read_text("utf-8")).get("allowed", [])
    return {(entry["path"], entry["fingerprint"]) for entry in entries}


def main() -> int:
    """Prints every finding that is not allowed; 1 when there is one."""
    harmless = allowed()
    found = [
        item
        for path in files()
        if ROOT / path != ALLOWED and text_of(path) is not None
        for item in scan(path)
        if item.entry not in harmless
    ]
    for item in found:
        print(f"{item.path}:{item.line}: {item.kind}; if it is none, add to {ALLOWED.name}:")
        print(f'[[allowed]]\npath = "{item.path}"\nfingerprint = "{item.fingerprint}"\nwhy = ""\n')
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
