"""Logins that a command was given: what is written to disk about a store holds none."""

from __future__ import annotations

from collections.abc import Mapping

from tailrace_agent.settings.settings import Settings, alert_addresses
from tailrace_agent.settings.uris import mask_uri, unmask_uri

__all__ = ["known_credentials", "with_credentials"]


def known_credentials(settings: Settings, *more: str | None) -> dict[str, str]:
    """`user:password` by masked URI, as far as this command was given any: none was ever written to disk."""
    pairs = [mask_uri(uri) for uri in (settings.tracking_uri, *more) if uri]
    known = {masked: credentials for masked, credentials in pairs if credentials}
    return known | alert_addresses(settings)


def with_credentials(uri: str, known: Mapping[str, str]) -> str:
    """A masked URI, whole again where `known_credentials` has what was cut out."""
    return unmask_uri(uri, known.get(mask_uri(uri)[0]))
