"""When a provider says to come back. Pure but for the clock of HTTP dates."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

_DURATION = re.compile(r"(\d+(?:\.\d+)?)s")


def from_headers(headers: Mapping[str, str]) -> float | None:
    """Seconds by `retry-after-ms` or `Retry-After` (seconds or a date); None without them."""
    found = {name.lower(): value for name, value in headers.items()}
    try:
        if "retry-after-ms" in found:
            return max(0.0, float(found["retry-after-ms"]) / 1000)
        value = found.get("retry-after", "")
        if not value:
            return None
        if value.replace(".", "", 1).isdigit():
            return float(value)
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def from_duration(text: object) -> float | None:
    """Seconds of a protobuf duration in JSON, `38.5s`; None when it is none."""
    found = _DURATION.fullmatch(text) if isinstance(text, str) else None
    return float(found[1]) if found else None
