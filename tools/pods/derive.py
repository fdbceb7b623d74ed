"""From a pod's manifest to what podman is told: pure, and nothing is left out in silence.

A field that is neither translated nor known to have no meaning on one machine is refused,
so that what runs here cannot drift from what a cluster would run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tools.pods.resources import Resources

Manifest = Mapping[str, Any]

POD_IGNORED = frozenset(
    {
        # Only a cluster has these: accounts, nodes, and other resources' variables.
        "serviceAccountName",
        "automountServiceAccountToken",
        "enableServiceLinks",
        "topologySpreadConstraints",
        "affinity",
        "nodeSelector",
        "tolerations",
        "priorityClassName",
        # Images are built here.
        "imagePullSecrets",
    }
)
POD_KNOWN = frozenset(
    {
        "containers",
        "volumes",
        "securityContext",
        "terminationGracePeriodSeconds",
        "restartPolicy",
    }
)
CONTAINER_KNOWN = frozenset(
    {
        "name",
        "image",
        "imagePullPolicy",
        "securityContext",
        "envFrom",
        "env",
        "ports",
        "startupProbe",
        "readinessProbe",
        "livenessProbe",
        "lifecycle",
        "resources",
        "volumeMounts",
        "command",
        "args",
    }
)
GRACE_SECONDS = 30
"""What a pod has to end when it does not say."""
SUFFIXES = {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "k": 10**3, "M": 10**6, "G": 10**9}
REFERENCE = re.compile(r"\$\((\w+)\)")


class Untranslated(Exception):
    """A manifest says something that is not carried over; the text names it."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What the kubelet asks a container, and how patiently."""

    port: int
    service: str = ""
    """gRPC health service; empty asks about the server as a whole."""
    path: str = ""
    """HTTP path; empty means that the question is gRPC's."""
    period_seconds: float = 10.0
    timeout_seconds: float = 1.0
    failure_threshold: int = 3
    initial_delay_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Volume:
    """A place a container sees, and what lies there at the start."""

    path: str
    read_only: bool
    files: Mapping[str, str]
    """Content by file name; none for an empty directory."""
    mode: int
    """Of the files."""
    memory: bool = False
    """Whether it lies in memory."""


@dataclass(frozen=True, slots=True)
class Pod:
    """One container, ready to be started under a name that is still to be chosen."""

    component: str
    image: str
    arguments: tuple[str, ...]
    """For `podman create`: accounts, rights, resources."""
    environment: Mapping[str, str]
    """With secrets in it, so it belongs into a file of our own."""
    volumes: tuple[Volume, ...]
    group: int
    """That owns the volumes' files."""
    command: tuple[str, ...]
    """Overrides the image's entry point when it is not empty."""
    startup: Probe | None
    readiness: Probe | None
    liveness: Probe | None
    pause_seconds: float
    """Between its leaving the Service and SIGTERM."""
    grace_seconds: float
    """From the order to end until SIGKILL, the pause included."""


def pod(template: Manifest, resources: Resources, name: str, namespace: str) -> Pod:
    """The pod of a template, under a name.

    Raises:
        Untranslated: it says something that is not carried over.
        Dangling: it refers to a ConfigMap or Secret that is not there.
    """
    spec = template["spec"]
    _only(spec, POD_KNOWN | POD_IGNORED, "spec")
    if len(spec["containers"]) != 1:
        raise Untranslated("spec.containers: exactly one container is run")
    (container,) = spec["containers"]
    _only(container, CONTAINER_KNOWN, "spec.containers[]")
    group, account = _account(spec.get("securityContext", {}))
    fields = {"metadata.name": name, "metadata.namespace": namespace}
    command = (*container.get("command", ()), *container.get("args", ()))
    if container.get("args") and not container.get("command"):
        raise Untranslated("spec.containers[].args without a command")
    return Pod(
        component=template["metadata"]["labels"]["app.kubernetes.io/component"],
        image=container["image"],
        arguments=(*account, *_rights(container), *_resources(container.get("resources", {}))),
        environment=environment(container, resources, fields),
        volumes=tuple(_volumes(spec, container, resources)),
        group=group,
        command=command,
        startup=_probe(container, "startupProbe"),
        readiness=_probe(container, "readinessProbe"),
        liveness=_probe(container, "livenessProbe"),
        pause_seconds=_pause(container.get("lifecycle", {})),
        grace_seconds=spec.get("terminationGracePeriodSeconds", GRACE_SECONDS),
    )


def environment(
    container: Manifest, resources: Resources, fields: Mapping[str, str]
) -> dict[str, str]:
    """A container's variables; later ones win and may refer to earlier ones."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        _only(source, {"configMapRef"}, "envFrom[]")
        found |= resources.content("ConfigMap", source["configMapRef"]["name"])
    for variable in container.get("env", ()):
        value = _value(variable, resources, fields)
        if value is not None:
            found[variable["name"]] = _expanded(value, found)
    return found


def _expanded(text: str, known: Mapping[str, str]) -> str:
    """A value with `$(NAME)` replaced where there is one of that name."""
    return REFERENCE.sub(lambda match: known.get(match[1], match[0]), text)


def _value(variable: Manifest, resources: Resources, fields: Mapping[str, str]) -> str | None:
    source = variable.get("valueFrom")
    if source is None:
        return str(variable.get("value", ""))
    _only(source, {"fieldRef", "secretKeyRef", "configMapKeyRef"}, "env[].valueFrom")
    if "fieldRef" in source:
        path = source["fieldRef"]["fieldPath"]
        if path not in fields:
            raise Untranslated(f"env[].valueFrom.fieldRef: {path}")
        return fields[path]
    ((key, reference),) = source.items()
    kinds = {"secretKeyRef": "Secret", "configMapKeyRef": "ConfigMap"}  # pragma: allowlist secret
    optional = bool(reference.get("optional"))
    return resources.value(kinds[key], reference["name"], reference["key"], optional=optional)


def _account(context: Manifest) -> tuple[int, list[str]]:
    known = {
        "runAsNonRoot",
        "runAsUser",
        "runAsGroup",
        "fsGroup",
        "fsGroupChangePolicy",
        "seccompProfile",
    }
    _only(context, known, "spec.securityContext")
    if not (context.get("runAsNonRoot") and context.get("runAsUser")):
        raise Untranslated("spec.securityContext: a pod that may be root is not run")
    if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
        raise Untranslated("spec.securityContext.seccompProfile: podman's default is used")
    user, group = context["runAsUser"], context.get("runAsGroup", 0)
    volumes_group = context.get("fsGroup", group)
    return volumes_group, [f"--user={user}:{group}", f"--group-add={volumes_group}"]


def _rights(container: Manifest) -> Iterator[str]:
    context = container.get("securityContext", {})
    known = {"allowPrivilegeEscalation", "capabilities", "readOnlyRootFilesystem"}
    _only(context, known, "spec.containers[].securityContext")
    capabilities = context.get("capabilities", {})
    yield from (f"--cap-drop={name.lower()}" for name in capabilities.get("drop", ()))
    yield from (f"--cap-add={name.lower()}" for name in capabilities.get("add", ()))
    if context.get("allowPrivilegeEscalation") is False:
        yield "--security-opt=no-new-privileges"
    if context.get("readOnlyRootFilesystem"):
        # Without podman's own writable /run and /tmp, which a cluster would not give either.
        yield from ("--read-only", "--read-only-tmpfs=false")


def _resources(resources: Manifest) -> Iterator[str]:
    """Limits, and the shares of a core that a kubelet makes of a request."""
    _only(resources, {"limits", "requests"}, "resources")
    limits, requests = resources.get("limits", {}), resources.get("requests", {})
    _only(limits, {"cpu", "memory"}, "resources.limits")
    if "memory" in limits:
        # The same with swap, as in a cluster.
        most = quantity(limits["memory"])
        yield from (f"--memory={most:.0f}", f"--memory-swap={most:.0f}")
    if "cpu" in limits:
        yield f"--cpus={quantity(limits['cpu']):g}"
    if "cpu" in requests:
        yield f"--cpu-shares={max(2, round(quantity(requests['cpu']) * 1024))}"


def quantity(text: Any) -> float:
    """A Kubernetes quantity as a number: `512Mi` is 536870912, `250m` is 0.25.

    Raises:
        Untranslated: it is none.
    """
    found = re.fullmatch(r"([0-9.]+)(m|[KMG]i|[kMG])?", str(text))
    if found is None:
        raise Untranslated(f"the quantity {text!r}")
    if found[2] == "m":
        return float(found[1]) / 1000
    return float(found[1]) * SUFFIXES[found[2] or ""]


def _volumes(spec: Manifest, container: Manifest, resources: Resources) -> Iterator[Volume]:
    declared = {volume["name"]: volume for volume in spec.get("volumes", ())}
    for mount in container.get("volumeMounts", ()):
        _only(mount, {"name", "mountPath", "readOnly"}, "volumeMounts[]")
        volume = declared[mount["name"]]
        _only(volume, {"name", "emptyDir", "secret", "configMap"}, "spec.volumes[]")
        files: dict[str, str] = {}
        source: Manifest = {}
        if "secret" in volume:
            source = volume["secret"]
            files = resources.content("Secret", source["secretName"])
        elif "configMap" in volume:
            source = volume["configMap"]
            files = resources.content("ConfigMap", source["name"])
        if "items" in source:
            files = {item["path"]: files[item["key"]] for item in source["items"]}
        yield Volume(
            path=mount["mountPath"],
            read_only=bool(mount.get("readOnly")),
            files=files,
            mode=source.get("defaultMode", 0o644),
            memory=volume.get("emptyDir", {}).get("medium") == "Memory",
        )


def _probe(container: Manifest, name: str) -> Probe | None:
    found = container.get(name)
    if found is None:
        return None
    known = {
        "grpc",
        "httpGet",
        "periodSeconds",
        "timeoutSeconds",
        "failureThreshold",
        "initialDelaySeconds",
    }
    _only(found, known, name)
    asked = found.get("grpc") or found.get("httpGet")
    if asked is None:
        raise Untranslated(f"{name}: neither grpc nor httpGet")
    ports = {port["name"]: port["containerPort"] for port in container.get("ports", ())}
    return Probe(
        port=ports.get(asked["port"], asked["port"]),
        service=asked.get("service", ""),
        path=asked.get("path", ""),
        period_seconds=found.get("periodSeconds", 10),
        timeout_seconds=found.get("timeoutSeconds", 1),
        failure_threshold=found.get("failureThreshold", 3),
        initial_delay_seconds=found.get("initialDelaySeconds", 0),
    )


def _pause(lifecycle: Manifest) -> float:
    if not lifecycle:
        return 0.0
    _only(lifecycle, {"preStop"}, "lifecycle")
    _only(lifecycle["preStop"], {"sleep"}, "lifecycle.preStop")
    return float(lifecycle["preStop"]["sleep"]["seconds"])


def _only(given: Manifest, known: frozenset[str] | set[str], where: str) -> None:
    unknown = sorted(set(given) - known)
    if unknown:
        raise Untranslated(f"{where}: {', '.join(unknown)}")
