"""What `make k8s-check` renders: every profile, options in combination, and what is unsafe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tools.k8s.render import RELEASE, merged, values_of

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One rendering."""

    name: str
    profile: str
    over: Values = field(default_factory=dict)
    """Laid over the values of the profile."""
    release: str = RELEASE

    def values(self) -> dict[str, Any]:
        """What Helm is given."""
        return merged(values_of(self.profile), self.over)


NOT_SCALED = {"autoscaling": {"enabled": False}}
NOT_BUNDLED = {"bundled": {"enabled": False}}
COMPONENTS = (
    *("guardrail", "embedding", "embedding_bulk", "rerank"),
    *("retrieval", "ingestion", "generation", "gateway"),
)
NAMESPACE = "kubernetes.io/metadata.name"
ONE_WRITER = "The lexical index inside retrieval has one writer"
ONE_DIRECTORY = "A directory of source files belongs to one replica"
COUNTED_APART = "Limits are counted in the memory of each gateway"

CASES = (
    Case("dev", "dev"),
    Case("prod", "prod"),
    Case("airgap", "airgap"),
    Case(
        "dev, index in retrieval",
        "dev",
        {"stores": {"opensearch": {"bundled": {"enabled": False}}}},
    ),
    Case(
        "dev, own stores",
        "dev",
        {
            "stores": {
                "postgres": NOT_BUNDLED,
                "opensearch": {**NOT_BUNDLED, "url": "http://search:9200"},
                "blobs": {
                    "url": "s3://documents",
                    "endpointUrl": "http://minio.minio:9000",
                    "existingSecret": "citemesh-minio",
                },
            },
            "migrations": {"hook": "false"},
            "networkPolicy": {"egress": {"blobs": {"ports": [9000]}}},
        },
    ),
    Case(
        "prod, Gateway API, scaled by metrics",
        "prod",
        {
            "gateway": {
                "ingress": {"enabled": False},
                "httpRoute": {
                    "enabled": True,
                    "host": "ask.example.com",
                    "parentRefs": [{"name": "public", "namespace": "gateways"}],
                },
            },
            "autoscaling": {"externalMetrics": True},
            "networkPolicy": {
                "gatewayFrom": [
                    {
                        "namespaceSelector": {
                            "matchLabels": {"kubernetes.io/metadata.name": "gateways"}
                        }
                    }
                ]
            },
            "priorityClassName": "important",
        },
    ),
    Case(
        "prod, everything that can be named",
        "prod",
        {
            "stores": {
                "postgres": {"direct": True},
                "opensearch": {"authentication": "bearer"},
                "blobs": {"existingSecret": "citemesh-bucket"},
            },
            "caBundle": {"configMap": "ca"},
            "clamav": {"address": "clamav.scanners:3310"},
            "config": {"CITEMESH_LOG_LEVEL": "WARNING"},
            "services": {
                "gateway": {
                    "config": {
                        "CITEMESH_GATEWAY_JWT_JWKS": "https://id.example.com/keys",
                        "CITEMESH_GATEWAY_JWT_ISSUER": "https://id.example.com",
                        "CITEMESH_GATEWAY_JWT_AUDIENCE": "citemesh",
                    },
                    "podAnnotations": {"example.com/team": "search"},
                },
                "embedding": {
                    "tolerations": [{"key": "fast", "operator": "Exists"}],
                    "extraEnv": [{"name": "OTEL_BSP_SCHEDULE_DELAY", "value": "2000"}],
                },
            },
            "extraEnv": [{"name": "OTEL_BSP_SCHEDULE_DELAY", "value": "1000"}],
            "telemetry": {"podMonitor": {"enabled": False}, "otlp": {"metrics": True}},
        },
    ),
    Case(
        "prod, TLS between services",
        "prod",
        {"tls": {"enabled": True, "issuerRef": {"name": "internal", "kind": "ClusterIssuer"}}},
    ),
    Case(
        "prod, another name, nothing scales",
        "prod",
        {
            "fullnameOverride": "answers",
            "services": dict.fromkeys(
                (
                    *("guardrail", "embedding", "embedding_bulk", "rerank"),
                    *("retrieval", "ingestion", "generation", "gateway"),
                ),
                NOT_SCALED,
            ),
        },
        release="second",
    ),
)


def every_setting(read: Values) -> Case:
    """A rendering in which `config` gives every component each of its settings.

    Args:
        read: The chart's variables.yaml.
    """
    services = {
        name: {"config": dict.fromkeys(component["settings"], "1")}
        for name, component in read["components"].items()
    }
    return Case("every setting by config", "prod", {"services": services})


@dataclass(frozen=True, slots=True, eq=False)
class Unsafe:
    """Values that have to be refused."""

    profile: str
    over: Values
    message: str
    """Part of the sentence that says why."""


def _services(**own: Values) -> Values:
    return {"services": own}


def _stores(**own: Values) -> Values:
    return {"stores": own}


UNSAFE = (
    Unsafe("prod", _stores(postgres={"existingSecret": ""}), "must name the Secret with the URLs"),
    Unsafe("prod", _stores(blobs={"url": ""}), "must say where source files are kept"),
    Unsafe("prod", _stores(blobs={"url": "ftp://files"}), "does not match pattern"),
    Unsafe(
        "prod", _stores(opensearch={"url": ""}), "The lexical index inside retrieval has one writer"
    ),
    Unsafe(
        "prod",
        {
            **_stores(opensearch={"url": ""}),
            **_services(retrieval={"replicas": 1, **NOT_SCALED}),
        },
        "needs an OpenSearch",
    ),
    Unsafe(
        "prod",
        _stores(opensearch={"url": "https://admin:password@search:9200"}),
        "does not match pattern",
    ),
    Unsafe(
        "prod", _stores(opensearch={"existingSecret": ""}), "needs stores.opensearch.existingSecret"
    ),
    Unsafe(
        "prod",
        _stores(limits={"existingSecret": ""}),
        COUNTED_APART,
    ),
    Unsafe("prod", _stores(postgres={"bundled": {"enabled": True}}), "no standby and no backup"),
    Unsafe("prod", _stores(opensearch={"bundled": {"enabled": True}}), "no standby and no backup"),
    Unsafe(
        "prod",
        {
            **_stores(blobs={"url": "file:///var/lib/citemesh/blobs"}),
            **_services(ingestion={"replicas": 1, **NOT_SCALED}),
        },
        "keeps source files in S3",
    ),
    Unsafe(
        "prod",
        _stores(blobs={"url": "file:///var/lib/citemesh/blobs"}),
        ONE_DIRECTORY,
    ),
    Unsafe(
        "dev",
        _services(ingestion={"replicas": 2}),
        ONE_DIRECTORY,
    ),
    Unsafe(
        "dev",
        {
            **_stores(opensearch=NOT_BUNDLED),
            **_services(retrieval={"replicas": 2}),
        },
        ONE_WRITER,
    ),
    Unsafe(
        "dev",
        {
            **_services(gateway={"autoscaling": {"enabled": True}}),
            "autoscaling": {"externalMetrics": True},
        },
        COUNTED_APART,
    ),
    Unsafe("dev", {"migrations": {"hook": "true"}}, "would wait for the Postgres"),
    Unsafe("dev", {"models": {"generation": "gemini,local"}}, "must name the Secret with its key"),
    Unsafe("airgap", {"models": {"rerank": "cohere,local"}}, "names cohere, which is outside"),
    Unsafe("airgap", {"providers": {"existingSecret": "citemesh-providers"}}, "calls no provider"),
    Unsafe("prod", {"config": {"GEMINI_API_KEY": "key"}}, "is a secret in plain text"),
    Unsafe(
        "prod",
        _services(rerank={"config": {"CITEMESH_RERANK_DATABASE_URL": "postgresql://db"}}),
        "is a secret in plain text",
    ),
    Unsafe(
        "prod",
        _services(gateway={"config": {"CITEMESH_GATEWAY_LIMITS_STORAGE": "redis://u:p@redis"}}),
        "is a secret in plain text",
    ),
    Unsafe(
        "prod",
        {"extraEnv": [{"name": "CO_API_KEY", "value": "co-1"}]},
        "in plain text: refer to a Secret",
    ),
    Unsafe("prod", {"extraEnv": [{"name": "POD_NAME", "value": "x"}]}, "is set by the chart"),
    Unsafe(
        "prod",
        _services(rerank={"extraEnv": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}),
        "extraEnv of rerank has A twice",
    ),
    Unsafe(
        "prod",
        _services(retrieval={"config": {"CITEMESH_RETRIEVAL_DEPHT": "7"}}),
        "retrieval reads no CITEMESH_RETRIEVAL_DEPHT",
    ),
    Unsafe(
        "prod",
        _services(retrieval={"config": {"CITEMESH_INGESTION_QUEUE_LIMIT": "7"}}),
        "retrieval reads no CITEMESH_INGESTION_QUEUE_LIMIT",
    ),
    Unsafe("prod", {"config": {"CITEMESH_LOGLEVEL": "INFO"}}, "nobody reads CITEMESH_LOGLEVEL"),
    Unsafe("prod", _services(generation={"drainSeconds": 60}), "would cut them off"),
    Unsafe("prod", {"gateway": {"answerSeconds": 600}}, "would cut them off"),
    Unsafe(
        "prod",
        _services(embedding={"autoscaling": {"minReplicas": 20}}),
        "minReplicas is more than maxReplicas",
    ),
    Unsafe("prod", {"telemetry": {"metrics": {"enabled": False}}}, "does not open"),
    Unsafe("prod", {"telemetry": {"otlp": {"metrics": True}}}, "would count everything twice"),
    Unsafe(
        "prod", {"gateway": {"httpRoute": {"enabled": True}}}, "parentRefs must name the Gateway"
    ),
    Unsafe(
        "prod",
        {"gateway": {"httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}]}}},
        "gateway.httpRoute.host must",
    ),
    Unsafe(
        "prod",
        _services(rerank={"resources": {"limits": {"memroy": "1Gi"}}}),
        "invalid propertyName",
    ),
    Unsafe("prod", {"gateway": {"trustedProxies": []}}, "locks everybody out"),
    Unsafe("prod", {"gateway": {"ingress": {"host": ""}}}, "gateway.ingress.host must"),
    Unsafe("prod", _services(reranker={"replicas": 1}), "additional properties 'reranker'"),
    Unsafe("prod", {"profile": "production"}, "value must be one of"),
)


def unknown_keys(
    values: Values, place: tuple[str, ...] = ()
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every way to add one key that means nothing, and where.

    Args:
        values: All of them, the chart's own included.
        place: Where these stand among all.
    """
    yield ".".join(place), {**values, "unheardOf": 1}
    for key, value in values.items():
        if isinstance(value, Mapping):
            for where, spoilt in unknown_keys(value, (*place, key)):
                yield where, {**values, key: spoilt}
