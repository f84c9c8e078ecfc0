"""Where callbacks may go."""

import json
from collections.abc import Sequence
from ipaddress import ip_network
from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic.networks import IPvAnyNetwork
from pydantic_settings import NoDecode, SettingsConfigDict

from bucketline.http.ssrf import GuardPolicy
from bucketline.settings import SettingsBase


def split_list(value: object) -> object:
    """A list in the environment: JSON, or words with commas in between."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [word.strip() for word in value.split(",") if word.strip()]


def _ports(value: object) -> object:
    """Ports as numbers, as ranges (``8000-8999``), or ``*`` for all."""
    found: list[int] = []
    for word in value if isinstance(value := split_list(value), Sequence | frozenset) else [value]:
        first, _, last = ("1", "-", "65535") if word == "*" else str(word).partition("-")
        found += range(int(first), int(last or first) + 1)
    return frozenset(found)


StringList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(split_list)]
Networks = Annotated[tuple[IPvAnyNetwork, ...], NoDecode, BeforeValidator(split_list)]
Ports = Annotated[frozenset[Annotated[int, Field(ge=1, le=65535)]], NoDecode, BeforeValidator(_ports)]


class OutboundSettings(SettingsBase):
    """Public addresses on the usual ports, unless more is allowed here. See :class:`GuardPolicy`."""

    model_config = SettingsConfigDict(env_prefix="BUCKETLINE_OUTBOUND_")

    allow_hosts: StringList = ()
    """Names or patterns (``*.example``) that may resolve to private addresses, never to link-local or metadata ones."""
    allow_networks: Networks = ()
    """Networks that may be reached although they are not public."""
    host_allowlist: StringList = ()
    """If set, no other host may be called."""
    allowed_ports: Ports = frozenset({80, 443})
    """Ports, ranges (``8000-8999``), or ``*``."""

    def policy(self) -> GuardPolicy:
        return GuardPolicy(
            allowed_ports=self.allowed_ports,
            allow_hosts=self.allow_hosts,
            allow_networks=tuple(ip_network(str(network)) for network in self.allow_networks),
            only_hosts=self.host_allowlist,
            max_redirects=0,
        )
