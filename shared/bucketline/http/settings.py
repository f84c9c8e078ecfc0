"""Settings of clients that request URLs of producers."""

import json
from collections.abc import Sequence
from ipaddress import ip_network
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.networks import IPvAnyNetwork
from pydantic_settings import NoDecode, SettingsConfigDict

from bucketline.http.ssrf import GuardPolicy
from bucketline.settings import SettingsBase


def split_list(value: object) -> object:
    """Parse a list from the environment: JSON, or comma-separated words."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [word.strip() for word in value.split(",") if word.strip()]


def _ports(value: object) -> object:
    """Parse port numbers, ranges (``8000-8999``), or ``*`` for all ports."""
    ports: list[int] = []
    for word in value if isinstance(value := split_list(value), Sequence | frozenset) else [value]:
        first, _, last = ("1", "-", "65535") if word == "*" else str(word).partition("-")
        ports += range(int(first), int(last or first) + 1)
    return frozenset(ports)


StringList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(split_list)]
Networks = Annotated[tuple[IPvAnyNetwork, ...], NoDecode, BeforeValidator(split_list)]
Ports = Annotated[frozenset[Annotated[int, Field(ge=1, le=65535)]], NoDecode, BeforeValidator(_ports)]


class GuardFields(BaseModel):
    """The settings of a :class:`~bucketline.http.ssrf.GuardPolicy`: public addresses on ports 80 and 443 by default."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    allow_hosts: StringList = ()
    """Host names or patterns (``*.example``) that may resolve to private addresses, but never to link-local or metadata
    addresses."""
    allow_networks: Networks = ()
    """Networks that may be reached although they are not public."""
    host_allowlist: StringList = ()
    """If set, the only hosts that a URL may name."""
    allowed_ports: Ports = frozenset({80, 443})
    """Ports, ranges (``8000-8999``), or ``*``."""

    def policy(self) -> GuardPolicy:
        """Return the policy for :mod:`bucketline.http.ssrf`."""
        return GuardPolicy(
            allowed_ports=self.allowed_ports,
            allow_hosts=self.allow_hosts,
            allow_networks=tuple(ip_network(str(network)) for network in self.allow_networks),
            only_hosts=self.host_allowlist,
        )


class OutboundSettings(GuardFields, SettingsBase):
    """URLs that webhooks may call."""

    model_config = SettingsConfigDict(env_prefix="BUCKETLINE_OUTBOUND_")
