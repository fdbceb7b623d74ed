"""Between a client and a real OpenSearch node: passes on, refuses, stalls, speaks TLS.

So that faults of a node that cannot be had from a healthy one are seen by the real client,
over real sockets.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_REFUSAL = b'{"error":{"type":"rejected_execution_exception"},"status":429}'
BUSY = (
    b"HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(_REFUSAL), _REFUSAL)
)


@dataclass(slots=True)
class Proxy:
    """What happens to requests; change it while it runs."""

    port: int = 0
    busy: list[str] = field(default_factory=list)
    """Words; a request whose first line has the first of them is answered 429, and the word is
    used up."""
    away: bool = False
    """Connections are closed without an answer."""
    stalled: str = ""
    """A request whose first line has this word is never answered."""
    requests: list[str] = field(default_factory=list)
    """First lines of all requests."""


@asynccontextmanager
async def before(url: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[Proxy]:
    """A proxy before the node at `url`, with TLS towards its clients or without."""
    node = urlsplit(url)
    proxy = Proxy()
    open_connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_connections.add(task)
        try:
            to_node, from_proxy = await asyncio.open_connection(node.hostname, node.port)
            try:
                while (head := await _head(reader)) and not proxy.away:
                    first = head.split(b"\r\n", 1)[0].decode()
                    proxy.requests.append(first)
                    body = await reader.readexactly(_length(head))
                    if proxy.stalled and proxy.stalled in first:
                        await asyncio.Event().wait()
                    if proxy.busy and proxy.busy[0] in first:
                        proxy.busy.pop(0)
                        writer.write(BUSY)
                        await writer.drain()
                        continue
                    from_proxy.write(_uncompressed(head) + body)
                    await from_proxy.drain()
                    answer = await _head(to_node)
                    has_body = not first.startswith("HEAD ")
                    writer.write(
                        answer + (await to_node.readexactly(_length(answer)) if has_body else b"")
                    )
                    await writer.drain()
            finally:
                from_proxy.close()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            return
        finally:
            open_connections.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in open_connections:
            task.cancel()
        await asyncio.gather(*open_connections, return_exceptions=True)


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


def _uncompressed(head: bytes) -> bytes:
    """The head without the offer to take compressed answers, which come without a length."""
    lines = head.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.lower().startswith(b"accept-encoding:"))


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


def certificate(directory: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS for 127.0.0.1, and the file of the authority that signed it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "citemesh tests")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    authority, private = directory / "authority.pem", directory / "server.key"
    authority.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(authority, private)
    return tls, authority
