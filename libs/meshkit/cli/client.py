"""The mesh over REST: where it is, with which key, and its errors as ours."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from meshkit.cli.failure import CommandFailed
from meshkit.cli.sse import Event, events
from meshkit.supervisor.layout import DataDirectory, holder

DEFAULT_URL = "http://127.0.0.1:8080"
TIMEOUT = httpx.Timeout(30.0, read=180.0)
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """Which mesh to talk to."""

    url: str
    key: str = field(repr=False)

    @classmethod
    def find(cls, url: str | None, data: Path | None) -> Target:
        """The mesh named by options and environment, else the local one of the data directory.

        The key is `CITEMESH_API_KEY`, else the data directory's own. That file's key is only ever
        sent to this machine.

        Raises:
            CommandFailed: there is no key.
        """
        directory = DataDirectory.at(data)
        if not url:
            running = holder(directory)
            url = running.url if running else DEFAULT_URL
        url = url.rstrip("/")
        key = os.environ.get("CITEMESH_API_KEY", "").strip()
        if not key and urlsplit(url).hostname in LOOPBACK:
            try:
                key = directory.api_key.read_text().strip()
            except OSError:
                key = ""
        if not key:
            raise CommandFailed(
                f"There is no API key for {url}: set CITEMESH_API_KEY, or start a mesh here with "
                "`citemesh up`.",
                "API_KEY_MISSING",
            )
        return cls(url, key)

    def arguments(self) -> dict[str, Any]:
        """Arguments of an httpx client for this mesh."""
        return {
            "base_url": self.url,
            "headers": {"Authorization": f"Bearer {self.key}"},
            "timeout": TIMEOUT,
            # A proxy variable must not send loopback traffic away.
            "trust_env": urlsplit(self.url).hostname not in LOOPBACK,
        }


class Client:
    """A connection to one mesh; raises `CommandFailed` for everything that goes wrong."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._http = httpx.Client(**target.arguments())

    @classmethod
    def open(cls, url: str | None, data: Path | None) -> Self:
        """A client for the mesh that options and environment name."""
        return cls(Target.find(url, data))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        json: Json | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> Json:
        """One call; returns the body, `{}` when there is none."""
        with reaching(self.target.url):
            response = self._http.request(method, path, json=json, params=params)
        raise_for_problem(response)
        return body(response)

    def pages(
        self, path: str, name: str, params: Mapping[str, Any] | None = None
    ) -> Iterator[Json]:
        """Every entry of a list that comes in pages, under `name`."""
        asked = dict(params or {})
        while True:
            page = self.request("GET", path, params=asked)
            yield from page.get(name, [])
            token = page.get("next_page_token")
            if not token:
                return
            asked["page_token"] = token

    def stream(self, path: str, json: Json) -> Iterator[Event]:
        """The events of a call that answers with a stream."""
        accept = {"Accept": "text/event-stream"}
        with (
            reaching(self.target.url),
            self._http.stream("POST", path, json=json, headers=accept) as response,
        ):
            if response.is_error:
                response.read()
                raise_for_problem(response)
            yield from events(response.iter_lines())

    @contextmanager
    def download(self, path: str) -> Iterator[Iterator[bytes]]:
        """The bytes of a response, as they come."""
        with reaching(self.target.url), self._http.stream("GET", path) as response:
            if response.is_error:
                response.read()
                raise_for_problem(response)
            yield response.iter_bytes()


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Turns what httpx raises into a sentence.

    Raises:
        CommandFailed: MESH_UNREACHABLE, MESH_TIMEOUT or MESH_DISCONNECTED.
    """
    try:
        yield
    except httpx.ConnectError as error:
        raise CommandFailed(
            f"No mesh answers at {url}: start one with `citemesh up`, or name another with --url.",
            "MESH_UNREACHABLE",
        ) from error
    except httpx.TimeoutException as error:
        raise CommandFailed(f"The mesh at {url} did not answer in time.", "MESH_TIMEOUT") from error
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise CommandFailed(f"{url} is not the address of a mesh.", "URL_INVALID") from error
    except httpx.TransportError as error:
        raise CommandFailed(
            f"The connection to {url} broke ({type(error).__name__}); try again.",
            "MESH_DISCONNECTED",
        ) from error


def body(response: httpx.Response) -> Json:
    """The JSON object of a response.

    Raises:
        CommandFailed: it is something else, so this is no mesh.
    """
    if not response.content:
        return {}
    try:
        content = response.json()
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise CommandFailed(
            f"{response.request.url} answered with something that is not a mesh's.", "NOT_A_MESH"
        )
    return content


def raise_for_problem(response: httpx.Response) -> None:
    """Raises the problem a response carries.

    Raises:
        CommandFailed: with the mesh's own detail, reason and request id.
    """
    if response.is_success:
        return
    try:
        problem = response.json()
    except ValueError:
        problem = {}
    if not isinstance(problem, dict):
        problem = {}
    raise CommandFailed(
        str(problem.get("detail") or f"The mesh answered {response.status_code}."),
        str(problem.get("reason") or f"HTTP_{response.status_code}"),
        str(problem.get("request_id") or response.headers.get("x-request-id", "")),
        response.status_code,
    )
