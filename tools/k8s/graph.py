"""Compares the call graph of the code with what a rendering allows, tells and serves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from tools.k8s.environment import Given, given
from tools.k8s.network import INTERNET, Pod, Policies, Resource, pods, selects

if TYPE_CHECKING:
    from meshkit.components import Component

HTTPS = 443
POSTGRES = 5432
OUTSIDE = Pod("outside", address=INTERNET)


def kebab(name: str) -> str:
    """`embedding_bulk` as Kubernetes calls it: `embedding-bulk`."""
    return name.replace("_", "-")


def wanted_edges(components: Iterable[Component]) -> frozenset[tuple[str, str]]:
    """Caller and called, by their names in Kubernetes."""
    return frozenset(
        (kebab(component.name), kebab(other))
        for component in components
        for other in (*component.calls, *component.observes)
    )


def inner_edges(components: Iterable[Component]) -> frozenset[tuple[str, str]]:
    """Who calls whom inside a release by something else than gRPC."""
    users = {(kebab(each.name), "postgres") for each in components if each.uses_database}
    return frozenset(
        {*users, ("migrate", "postgres"), ("retrieval", "opensearch"), ("test", "gateway")}
    )


def problems(
    resources: Sequence[Resource], components: Sequence[Component], namespace: str
) -> Iterator[str]:
    """Where a rendering differs from the call graph, a sentence each."""
    policies = Policies(resources, namespace)
    started = pods(resources)
    wanted = wanted_edges(components)
    by_name = {pod.name: pod for pod in started}
    for name in sorted({kebab(component.name) for component in components} - by_name.keys()):
        yield f"{name} is started by nothing"
    for pod in started:
        if not policies.isolated(pod):
            yield f"{pod.name} is not isolated: no policy selects it for both directions"
    yield from _between(policies, started, wanted, inner_edges(components))
    yield from _outside(policies, by_name, components, resources)
    for component in components:
        if kebab(component.name) in by_name:
            names = [each.name for each in components]
            yield from _addresses(component, names, resources, by_name)


def _between(
    policies: Policies,
    started: Sequence[Pod],
    wanted: frozenset[tuple[str, str]],
    inner: frozenset[tuple[str, str]],
) -> Iterator[str]:
    """Every pair of pods, at every port.

    A port for gRPC is open exactly as wanted on either side. Others may be open to the world
    on the side of the called, so there both sides count together; nobody inside reads metrics.
    """
    for caller in started:
        for called in started:
            edge = (caller.name, called.name)
            for name, port in called.ports.items():
                out = policies.lets_out(caller, called, port)
                into = policies.lets_in(caller, called, port)
                if name == "grpc":
                    judged, needed = {"egress side": out, "ingress side": into}, edge in wanted
                else:
                    judged, needed = {"both sides": out and into}, edge in inner
                    needed = needed and name != "metrics"
                for side, allowed in judged.items():
                    if allowed != needed:
                        may = "is allowed" if allowed else "is not allowed"
                        yield f"{caller.name} -> {called.name}:{name} {may} by the {side}"


def _outside(
    policies: Policies,
    by_name: Mapping[str, Pod],
    components: Sequence[Component],
    resources: Sequence[Resource],
) -> Iterator[str]:
    """Postgres for those that use it, the internet for those that call somebody there."""
    for component in components:
        pod = by_name.get(kebab(component.name))
        if pod is None:
            continue
        if "postgres" not in by_name:
            allowed = policies.lets_out(pod, OUTSIDE, POSTGRES)
            if allowed != component.uses_database:
                yield f"{pod.name} {'reaches' if allowed else 'does not reach'} Postgres"
        allowed = policies.lets_out(pod, OUTSIDE, HTTPS)
        reasons = list(_reasons(component, pod.name, resources))
        if allowed and not reasons:
            yield f"{pod.name} reaches the internet and calls nobody there"
        if reasons and not allowed:
            yield f"{pod.name} does not reach the internet: {', '.join(reasons)}"


def _reasons(component: Component, name: str, resources: Sequence[Resource]) -> Iterator[str]:
    """Why a component has somebody to call in the internet."""
    environment = given(resources).get(name, {})
    if component.calls_providers and "GEMINI_API_KEY" in environment:
        yield "providers"
    blobs = environment.get("CITEMESH_BLOB_URL", Given()).value
    if blobs.startswith("s3:") and "AWS_ENDPOINT_URL_S3" not in environment:
        yield "source files in AWS"
    if environment.get("CITEMESH_GATEWAY_JWT_JWKS", Given()).value.startswith("https:"):
        yield "keys of an issuer"


def _addresses(
    component: Component,
    names: Iterable[str],
    resources: Sequence[Resource],
    by_name: Mapping[str, Pod],
) -> Iterator[str]:
    """The addresses a component is told: of everybody it calls, and that lead there."""
    own = kebab(component.name)
    environment = given(resources).get(own, {})
    wanted = {*component.calls, *component.observes}
    for other in names:
        address = environment.get(f"CITEMESH_{other.upper()}_ADDRESS")
        if (address is not None) != (other in wanted):
            why = "is told no address of" if other in wanted else "is told the address of"
            yield f"{own} {why} {other}"
        elif address is not None and (pod := by_name.get(kebab(other))) is not None:
            why = _leads_astray(address.value, pod, resources, by_name)
            if why:
                yield f"{own} dials {other} at {address.value}: {why}"


def _leads_astray(
    address: str, pod: Pod, resources: Sequence[Resource], by_name: Mapping[str, Pod]
) -> str:
    """Why an address is not that of a component's pods; empty when it is."""
    scheme, _, where = address.rpartition("///")
    host, _, port = where.rpartition(":")
    services = [
        resource["spec"]
        for resource in resources
        if resource["kind"] == "Service" and resource["metadata"]["name"] == host
    ]
    if scheme != "dns:":
        return "not by DNS, so replicas are not found"
    if not services:
        return "no Service has that name"
    if services[0].get("clusterIP") != "None":
        return "the Service is not headless, so one connection has one replica"
    if not port.isdigit() or pod.ports.get("grpc") != int(port):
        return f"the pods serve gRPC at {pod.ports.get('grpc')}"
    selector = {"matchLabels": services[0]["selector"]}
    chosen = {each.name for each in by_name.values() if selects(selector, each.labels)}
    if chosen != {pod.name}:
        return f"the Service selects {sorted(chosen)}"
    certified = _certified(pod, resources)
    return f"its certificate names {certified}" if certified and host not in certified else ""


def _certified(pod: Pod, resources: Sequence[Resource]) -> list[str]:
    """Names in the certificate that a pod shows; empty when none is made with the release."""
    mounted = {
        volume["secret"]["secretName"]
        for resource in resources
        if resource["kind"] == "Deployment"
        and resource["metadata"]["labels"].get("app.kubernetes.io/component") == pod.name
        for volume in resource["spec"]["template"]["spec"].get("volumes", ())
        if "secret" in volume
    }
    certificates = [each["spec"] for each in resources if each["kind"] == "Certificate"]
    return [
        name
        for certificate in certificates
        if certificate["secretName"] in mounted
        for name in certificate["dnsNames"]
    ]
