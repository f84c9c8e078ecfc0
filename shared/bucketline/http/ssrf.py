"""Decides which URLs and addresses may be requested. It resolves no names and opens no sockets.

A string never proves an address harmless, so three checks run at different times:

* :func:`check_url` when the producer's string is read, and again for every redirect;
* :func:`check_address` for **every** address that a lookup returned, right before connecting to that very address;
* :func:`check_redirect` for a redirect: everything of ``check_url``, and https never falls back to http.

Unusual spellings of a numeric host (decimal, octal, hexadecimal, shortened) are converted to the address they mean and
checked as that address. Each function raises :class:`AddressRefused`, whose reason is for our logs only.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import quote, urljoin

import idna
from yarl import URL

from bucketline.domain.blob_sources import MAX_URL_LENGTH
from bucketline.errors import BucketlineError

IpAddress = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class AddressRefused(BucketlineError):
    """The URL or address is not allowed.

    There is one message for every reason, including a host that does not exist: which part was refused would map the
    private network. ``detail`` is for our own logs.
    """

    retryable = False

    def __init__(self, *, detail: str) -> None:
        super().__init__("the address is not allowed")
        self.detail = detail[:500]


@dataclass(frozen=True, slots=True)
class GuardPolicy:
    """The allowed URLs and addresses. The default is the public internet.

    ``allow_hosts`` ("files.corp.example" or "*.corp.example") may resolve to private and loopback addresses, but never
    to link-local or metadata addresses, because the owner of the DNS zone controls a name. ``allow_networks`` allows
    every address inside, whatever the name. ``only_hosts``, when not empty, are the only hosts that a URL may name;
    their addresses are checked like all others.
    """

    allowed_ports: frozenset[int] = frozenset({80, 443})
    allow_hosts: tuple[str, ...] = ()
    allow_networks: tuple[Network, ...] = ()
    only_hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckedUrl:
    """A URL, parsed once; the client gets the parts, not the string.

    ``host`` is lower-case ASCII without brackets; ``address`` is set, and has been checked, if the host is an address.
    ``target`` is path and query, percent-encoded, without the fragment.
    """

    scheme: str
    host: str
    port: int
    target: str
    address: IpAddress | None = None

    @property
    def netloc_host(self) -> str:
        """The host as in a URL: an IPv6 address in brackets."""
        return f"[{self.host}]" if ":" in self.host else self.host

    def __str__(self) -> str:
        port = "" if self.port == _DEFAULT_PORTS.get(self.scheme) else f":{self.port}"
        return f"{self.scheme}://{self.netloc_host}{port}{self.target}"

    def to_yarl(self) -> URL:
        """Return the URL for aiohttp, built from the checked parts without parsing it again."""
        path, _, query = self.target.partition("?")
        return URL.build(
            scheme=self.scheme,
            host=self.netloc_host,  # with ``encoded``, yarl adds no brackets itself
            port=self.port,
            path=path,
            query_string=query,
            encoded=True,
        )


def check_url(url: str, policy: GuardPolicy) -> CheckedUrl:
    """Parse ``url`` more strictly than any client does, so that no two parsers can disagree about it."""
    if len(url) > MAX_URL_LENGTH:
        raise AddressRefused(detail=f"URL of {len(url)} characters")
    if any(c == "\\" or unicodedata.category(c) in _UNPRINTABLE for c in url):
        raise AddressRefused(detail="backslash, control or format character in the URL")
    parts = _URL.fullmatch(url)
    if parts is None:
        raise AddressRefused(detail="not an absolute URL")
    scheme = parts["scheme"].lower()
    if scheme not in _DEFAULT_PORTS:
        raise AddressRefused(detail=f"scheme {scheme!r}")
    authority = _AUTHORITY.fullmatch(parts["authority"])
    if authority is None:
        raise AddressRefused(detail="userinfo, or a malformed host or port")
    port = int(authority["port"]) if authority["port"] else _DEFAULT_PORTS.get(scheme, 0)
    if port not in policy.allowed_ports:
        raise AddressRefused(detail=f"port {port}")
    host, address = _host(authority["host"])
    if policy.only_hosts and not _host_matches(host, policy.only_hosts):
        raise AddressRefused(detail=f"host {host!r} is not one of only_hosts")
    if address is not None:
        address = check_address(address, policy, host=host)
    path = parts["path"] or "/"
    # Legal characters stay byte for byte: a signed URL must not be normalized.
    target = quote(path, safe=_LEGAL) + quote(parts["query"] or "", safe=_LEGAL + "?")
    return CheckedUrl(scheme=scheme, host=host, port=port, target=target, address=address)


def check_address(address: IpAddress | str, policy: GuardPolicy, *, host: str = "") -> IpAddress:
    """Return the address if a connection to it is allowed for ``host``. Refuse in doubt."""
    if isinstance(address, str):
        try:
            address = ip_address(address)
        except ValueError:
            raise AddressRefused(detail=f"not an address: {address!r}") from None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            raise AddressRefused(detail=f"{address} has a zone")
        # An allowed transition prefix (64:ff9b::/96 behind DNS64) allows nothing behind the gateway.
        for embedded in _embedded(address):
            check_address(embedded, policy, host=host)
    if any(address.version == net.version and address in net for net in policy.allow_networks):
        return address
    if _host_matches(host, policy.allow_hosts) and _within(address, _PRIVATE) and address not in _METADATA:
        return address
    if isinstance(address, IPv6Address) and any(True for _ in _embedded(address)):
        raise AddressRefused(detail=f"{address} carries an IPv4 address")
    if address in _METADATA or _within(address, _REFUSED) or not address.is_global:
        raise AddressRefused(detail=f"{address} is not a public address (host {host!r})")
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        raise AddressRefused(detail=f"{address} is outside 2000::/3 (host {host!r})")
    return address


def check_redirect(source: CheckedUrl, location: str, policy: GuardPolicy) -> CheckedUrl:
    """Return the target of ``Location``, checked as if a producer had sent it."""
    if len(location) > MAX_URL_LENGTH or any(c == "\\" or unicodedata.category(c) in _UNPRINTABLE for c in location):
        # Before urljoin, which silently drops tabs and newlines.
        raise AddressRefused(detail="unacceptable Location")
    try:
        joined = urljoin(str(source), location)
    except ValueError:
        raise AddressRefused(detail="malformed Location") from None
    target = check_url(joined, policy)
    if source.scheme == "https" and target.scheme != "https":
        raise AddressRefused(detail="redirect from https to http")
    return target


def _host(raw: str) -> tuple[str, IpAddress | None]:
    if raw.startswith("["):
        try:
            literal = IPv6Address(raw[1:-1])
        except ValueError:
            raise AddressRefused(detail="malformed IPv6 host") from None
        return str(literal), literal
    try:
        # UTS 46 also maps lookalikes of dots and digits: 127。0。0。1, ①②⑦.⓪.⓪.①
        host = idna.uts46_remap(raw, std3_rules=False, transitional=False)
        if not host.isascii():
            host = idna.encode(host).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        raise AddressRefused(detail="host name is not valid IDNA") from None
    host = host.removesuffix(".")
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise AddressRefused(detail="malformed host name")
    if _NUMBER.fullmatch(labels[-1]):
        address = _legacy_ipv4(labels)
        return str(address), address
    return host, None


def _legacy_ipv4(labels: list[str]) -> IPv4Address:
    """Parse 2130706433, 0x7f.1 or 0177.0.0.1 as inet_aton and browsers do."""
    if len(labels) > 4 or not all(_NUMBER.fullmatch(label) for label in labels):
        raise AddressRefused(detail="malformed numeric host")
    try:
        *head, last = (_number(label) for label in labels)
    except ValueError:
        raise AddressRefused(detail="malformed numeric host") from None
    if any(part > 255 for part in head) or last >= 256 ** (4 - len(head)):
        raise AddressRefused(detail="numeric host out of range")
    return IPv4Address(sum(part << (8 * (3 - i)) for i, part in enumerate(head)) + last)


def _number(label: str) -> int:
    if label.startswith("0x"):
        return int(label[2:] or "0", 16)
    return int(label, 8) if label.startswith("0") else int(label)


def _embedded(address: IPv6Address) -> Iterator[IPv4Address]:
    """Yield every IPv4 address that a host or a gateway may extract from ``address``."""
    value = int(address)
    low = IPv4Address(value & 0xFFFFFFFF)
    if _within(address, _LOW_32_BITS) and value > 1:  # :: and ::1 embed no address
        yield low
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    if address in _NAT64_LOCAL:  # RFC 6052 splits the four bytes around bits 64..71
        yield low
        yield IPv4Address(((value >> 64) & 0xFFFF) << 16 | (value >> 40) & 0xFFFF)
    if (value >> 32) & 0xFFFFFFFF & ~0x02000000 == 0x00005EFE:  # ISATAP, RFC 5214
        yield low


def _within(address: IpAddress, networks: tuple[Network, ...]) -> bool:
    return any(address.version == net.version and address in net for net in networks)


def _host_matches(host: str, patterns: tuple[str, ...]) -> bool:
    for pattern in patterns:
        normalized = pattern.lower().removesuffix(".")
        if host == normalized or (normalized.startswith("*.") and host.endswith(normalized[1:])):
            return True
    return False


def _networks(*cidrs: str) -> tuple[Network, ...]:
    return tuple(ip_network(cidr) for cidr in cidrs)


_DEFAULT_PORTS = {"http": 80, "https": 443}
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?P<query>\?[^#]*)?(?:#.*)?"
)
_AUTHORITY = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[^@:\[\]%\s]{1,255})(?::(?P<port>[0-9]{0,5}))?")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_LEGAL = "!$%&'()*+,-./:;=@_~[]|"

_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")
# compatible, mapped, translated (SIIT), NAT64 well-known: IPv4 in the last 32 bits
_LOW_32_BITS = _networks("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96")
_PRIVATE = _networks(
    "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8", "fc00::/7", "::1/128"
)
# Metadata services, which hand out credentials: AWS, Alibaba, Oracle, and Azure's host agent (a public address).
_METADATA = frozenset(
    ip_address(a)
    for a in ("169.254.169.254", "fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "192.0.0.192", "168.63.129.16")
)
_REFUSED = _PRIVATE + _networks(
    "0.0.0.0/8",
    "169.254.0.0/16",  # link-local
    "192.0.0.0/24",  # protocol assignments
    "192.0.2.0/24",  # documentation, and the next two
    "198.51.100.0/24",
    "203.0.113.0/24",
    "192.88.99.0/24",  # 6to4 relays
    "198.18.0.0/15",  # benchmark
    "224.0.0.0/4",  # multicast
    "240.0.0.0/4",  # reserved and broadcast
    "2001::/23",  # protocol assignments: Teredo, benchmark, ORCHID
    "2001:db8::/32",  # documentation, and the next
    "3fff::/20",
    "2002::/16",  # 6to4
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
)
