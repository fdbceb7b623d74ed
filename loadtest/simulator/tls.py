"""HTTPS ports of the simulator, one a provider, whose handshakes can be made to fail.

TLS is spoken here and plain HTTP behind it, so that a fault can be decided for each
connection: with the fault the server presents a certificate of nobody's authority.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from loadtest.simulator.call import Call
from loadtest.simulator.world import World

HOST = "127.0.0.1"
BLOCK = 65536


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files in PEM: what clients are to trust, and two servers' certificates with their keys."""

    authority: Path
    good: Path
    bad: Path
    """Signed by itself: no client trusts it."""


def make_certificates(directory: Path) -> Certificates:
    """Makes an authority, a certificate it signed for loopback, and one it did not sign."""
    key, authority = _certificate("simulator authority", None)
    files = Certificates(directory / "ca.pem", directory / "good.pem", directory / "bad.pem")
    files.authority.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    for path, signer in ((files.good, (key, authority)), (files.bad, None)):
        own, certificate = _certificate("simulator", signer)
        path.write_bytes(
            own.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        path.chmod(0o600)
    return files


def _certificate(
    name: str, signer: tuple[ec.EllipticCurvePrivateKey, x509.Certificate] | None
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    is_authority = name.endswith("authority")
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer[1].subject if signer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    )
    if not is_authority:
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(HOST))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return key, builder.sign(signer[0] if signer else key, hashes.SHA256())


class TlsPorts:
    """Terminates TLS for each provider and hands the bytes on to the simulator's HTTP port.

    Args:
        world: Whose faults decide.
        http_port: Where the simulator listens.
        providers: Names, each with a port of its own.
    """

    def __init__(self, world: World, http_port: int, providers: Sequence[str]) -> None:
        self._world = world
        self._http_port = http_port
        self._providers = providers
        self._directory = tempfile.TemporaryDirectory(prefix="citemesh-simulator-")
        self._certificates = make_certificates(Path(self._directory.name))
        self._servers: list[asyncio.Server] = []
        self._open: dict[asyncio.StreamWriter, str] = {}
        world.hang_up = self.hang_up
        self.ports: dict[str, int] = {}

    @property
    def authority(self) -> Path:
        """Certificate that a client has to trust (`SSL_CERT_FILE`)."""
        return self._certificates.authority

    async def start(self) -> None:
        """Listens on a free port for each provider."""
        good, bad = _context(self._certificates.good), _context(self._certificates.bad)
        for provider in self._providers:

            async def accept(
                reader: asyncio.StreamReader,
                writer: asyncio.StreamWriter,
                provider: str = provider,
            ) -> None:
                call = Call(provider, "*", "*", "*", 0)
                failing = self._world.faults.pick(call, self._world.now(), handshake=True)
                self._open[writer] = provider
                try:
                    with suppress(OSError, ssl.SSLError, asyncio.IncompleteReadError):
                        await writer.start_tls(bad if failing else good)
                        await self._relay(reader, writer)
                finally:
                    del self._open[writer]
                    writer.close()

            server = await asyncio.start_server(accept, HOST, 0)
            self._servers.append(server)
            self.ports[provider] = server.sockets[0].getsockname()[1]

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, ahead = await asyncio.open_connection(HOST, self._http_port)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, ahead))
                group.create_task(_copy(behind, writer))
        except* OSError:
            pass
        finally:
            ahead.close()

    def hang_up(self, provider: str) -> None:
        """Ends every connection of a provider, or of all (`*`)."""
        for writer, name in self._open.items():
            if provider in ("*", name):
                writer.transport.abort()

    async def close(self) -> None:
        """Stops listening and ends every connection."""
        for server in self._servers:
            server.close()
        self.hang_up("*")
        self._directory.cleanup()


def _context(file: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Until the source ends; then the sink is closed too, which ends the other direction."""
    while data := await source.read(BLOCK):
        sink.write(data)
        await sink.drain()
    sink.close()
