"""Rules for kinds that Kubernetes itself has no schema of.

Their own projects publish schemas; here stands the part that the chart uses, closed, so that
a field which is misspelt or new is refused until somebody has looked it up.
"""

from __future__ import annotations

from typing import Any

TEXT = {"type": "string", "minLength": 1}
NAMES = {"type": "object", "additionalProperties": {"type": "string"}}
DURATION = {"type": "string", "pattern": "^([0-9]+(ms|s|m|h))+$"}


def _closed(required: list[str], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": required,
        "additionalProperties": False,
        "properties": properties,
    }


def _several(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "items": item}


def _kind(api_version: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = _closed(["name"], name=TEXT, namespace=TEXT, labels=NAMES, annotations=NAMES)
    return _closed(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": api_version},
        kind={"const": kind},
        metadata=metadata,
        spec=spec,
    )


HTTP_ROUTE = _kind(
    "gateway.networking.k8s.io/v1",
    "HTTPRoute",
    _closed(
        ["parentRefs", "hostnames", "rules"],
        parentRefs=_several(
            _closed(["name"], name=TEXT, namespace=TEXT, sectionName=TEXT, port={"type": "integer"})
        ),
        hostnames=_several(TEXT),
        rules=_several(
            _closed(
                ["backendRefs"],
                matches=_several(
                    _closed(
                        ["path"],
                        path=_closed(
                            ["type", "value"],
                            type={"enum": ["Exact", "PathPrefix"]},
                            value={"type": "string", "pattern": "^/"},
                        ),
                    )
                ),
                timeouts=_closed([], request=DURATION, backendRequest=DURATION),
                backendRefs=_several(
                    _closed(["name", "port"], name=TEXT, port={"type": "integer"})
                ),
            )
        ),
    ),
)
POD_MONITOR = _kind(
    "monitoring.coreos.com/v1",
    "PodMonitor",
    _closed(
        ["selector", "podMetricsEndpoints"],
        selector=_closed(["matchLabels"], matchLabels=NAMES),
        podTargetLabels=_several(TEXT),
        podMetricsEndpoints=_several(
            _closed(["port"], port=TEXT, interval=DURATION, scrapeTimeout=DURATION, path=TEXT)
        ),
    ),
)
PROMETHEUS_RULE = _kind(
    "monitoring.coreos.com/v1",
    "PrometheusRule",
    _closed(
        ["groups"],
        groups=_several(
            _closed(
                ["name", "rules"],
                name=TEXT,
                interval=DURATION,
                # tools.observability parses the queries and looks at the rest.
                rules=_several(
                    {
                        **_closed(
                            ["expr"],
                            record=TEXT,
                            alert=TEXT,
                            expr=TEXT,
                            labels=NAMES,
                            annotations=NAMES,
                            **{"for": DURATION, "keep_firing_for": DURATION},
                        ),
                        "oneOf": [{"required": ["record"]}, {"required": ["alert"]}],
                    }
                ),
            )
        ),
    ),
)
CERTIFICATE = _kind(
    "cert-manager.io/v1",
    "Certificate",
    _closed(
        ["secretName", "issuerRef"],
        secretName=TEXT,
        dnsNames=_several(TEXT),
        usages=_several({"enum": ["digital signature", "server auth", "client auth"]}),
        privateKey=_closed(
            [],
            algorithm={"enum": ["RSA", "ECDSA", "Ed25519"]},
            size={"type": "integer"},
            rotationPolicy={"enum": ["Always", "Never"]},
        ),
        issuerRef=_closed(["name"], name=TEXT, kind=TEXT, group=TEXT),
    ),
)
RULES = {
    (rule["properties"]["apiVersion"]["const"], rule["properties"]["kind"]["const"]): rule
    for rule in (HTTP_ROUTE, POD_MONITOR, PROMETHEUS_RULE, CERTIFICATE)
}
