"""TLS between services, both sides with a certificate: CITEMESH_TLS_CERT_FILE and its like.

All three files or none. A server takes only callers whose certificate the authorities
signed, and a caller only a server whose certificate names the host it dialled. Files are
read at start: a process with a renewed certificate is a restarted one.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import grpc

from meshkit.settings import ServiceSettings, SettingsInvalid, variables

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Tls:
    """What a process shows to others, and whom it believes; PEM."""

    certificate: bytes
    key: bytes = field(repr=False)
    authorities: bytes

    def server(self) -> grpc.ServerCredentials:
        """For a port."""
        return grpc.ssl_server_credentials(
            [(self.key, self.certificate)], self.authorities, require_client_auth=True
        )

    def channel(self) -> grpc.ChannelCredentials:
        """For a connection."""
        return grpc.ssl_channel_credentials(self.authorities, self.key, self.certificate)


def load(settings: ServiceSettings) -> Tls | None:
    """The certificate, key and authorities that the settings name; None when they name none.

    Raises:
        SettingsInvalid: one is missing, cannot be read or does not fit, with its variable.
    """
    files = {
        name: getattr(settings, name) for name in ("tls_cert_file", "tls_key_file", "tls_ca_file")
    }
    named = {name: file for name, file in files.items() if file is not None}
    if not named:
        return None
    for name in files.keys() - named.keys():
        raise SettingsInvalid(
            f"{_variable(settings, name)} must name a file: with TLS a process has a "
            "certificate, its key, and the authorities it believes."
        )
    certificate, key, authorities = named.values()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _usable(
        settings, "tls_ca_file", authorities, lambda: context.load_verify_locations(authorities)
    )
    _usable(settings, "tls_cert_file", certificate, certificate.read_bytes)
    _usable(settings, "tls_key_file", key, lambda: context.load_cert_chain(certificate, key))
    return Tls(certificate.read_bytes(), key.read_bytes(), authorities.read_bytes())


def _usable(settings: ServiceSettings, name: str, file: Path, use: Callable[[], object]) -> None:
    try:
        use()
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "no PEM"
        raise SettingsInvalid(
            f"{_variable(settings, name)} is {file}, which cannot be used: {reason}."
        ) from None


def _variable(settings: ServiceSettings, name: str) -> str:
    return variables(type(settings), name)[-1]
