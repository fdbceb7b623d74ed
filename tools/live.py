"""`make live`: the adapters against the real APIs, a handful of calls worth less than a cent.

For each provider whose key is in the environment: one embedded text, one rerank, one streamed
answer. Without any key it says so in one line. The last line is one JSON object.
"""

from __future__ import annotations

import json
import os
import sys

from meshkit.cli.output import table
from meshkit.cli.providers import API_KEYS, api_findings


def main() -> int:
    """1 when a provider with a key does not work."""
    keyed = [name for name, variable in API_KEYS.items() if os.environ.get(variable)]
    if not keyed:
        print(f"live: skipped, none of {', '.join(API_KEYS.values())} is set")
        print(json.dumps({"live": "skipped", "calls": 0, "failed": 0}))
        return 0
    # The real addresses, whatever else this shell is set up for.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CITEMESH_")}
    findings = api_findings(environment)
    rows = [
        (f.provider, f.use, f.model, "yes" if f.works else "no", f.ms, f.cost_micro_usd, f.remark)
        for f in findings
    ]
    table(("provider", "use", "model", "works", "ms", "µ$", "remark"), rows)
    failed = [finding for finding in findings if not finding.works]
    summary = {
        "live": ",".join(keyed),
        "calls": len(findings),
        "failed": len(failed),
        "cost_micro_usd": sum(finding.cost_micro_usd for finding in findings),
    }
    print(json.dumps(summary))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
