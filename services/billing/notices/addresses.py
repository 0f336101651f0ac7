"""Where webhooks may go (pure). Whoever registers a URL must not make us talk to what only we can reach (SSRF).

Names are judged by the addresses that they resolve to, at the time of each connection; see sending.py.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit, urlunsplit

from shared.errors import TallystickError

Address = IPv4Address | IPv6Address

MAX_URL = 2048

# IANA's special-purpose registries, spelled out: what Python calls global differs between its versions.
_REFUSED = {
    ip_network(network): what
    for what, networks in {
        "this network": ("0.0.0.0/8", "::/128"),
        "private": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fec0::/10"),
        "shared between a provider's customers": ("100.64.0.0/10",),
        "loopback": ("127.0.0.0/8", "::1/128"),
        "link-local, where clouds serve credentials": ("169.254.0.0/16", "fe80::/10"),
        "a cloud's own": ("168.63.129.16/32",),
        "reserved": ("192.0.0.0/24", "240.0.0.0/4", "::/96", "100::/64", "2001::/23", "5f00::/16", "3fff::/20"),
        "for documentation": ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32"),
        "for benchmarks": ("198.18.0.0/15",),
        "multicast": ("224.0.0.0/4", "ff00::/8"),
        "a relay to another": ("192.88.99.0/24",),
    }.items()
    for network in networks
}
_NAT64 = (ip_network("64:ff9b::/96"), ip_network("64:ff9b:1::/48"))


class UrlRefused(TallystickError):
    """A URL that no webhook is sent to; the message says why."""


def refusal(address: Address) -> str | None:
    """Say what is wrong with an address, or None if it may be connected to.

    An IPv6 address that carries an IPv4 address (mapped, NAT64, 6to4) is judged by that one too.
    """
    if isinstance(address, IPv6Address):
        if inner := _carried(address):
            return refusal(inner)
        if address.scope_id is not None:
            return "link-local, where clouds serve credentials"
    for network, what in _REFUSED.items():
        if address.version == network.version and address in network:
            return what
    return None if address.is_global else "not global"


def _carried(address: IPv6Address) -> IPv4Address | None:
    if any(address in network for network in _NAT64):
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour


def check_url(url: str, *, allow_http: bool, allow_private: bool) -> str:
    """Return a URL as it is stored: the host in ASCII. Raises `UrlRefused` for one that could never be delivered to.

    A host that is an address is judged here; a name is judged whenever it is connected to.
    """
    if len(url) > MAX_URL or any(c.isspace() or not c.isprintable() for c in url):
        raise UrlRefused(f"a webhook's URL has at most {MAX_URL} characters, none of them a space or control character")
    try:
        parts, host, port = (split := urlsplit(url)), split.hostname or "", split.port
        name = host if ":" in host else host.encode("idna").decode("ascii")
        parts.path.encode("ascii"), parts.query.encode("ascii")
    except (ValueError, UnicodeError):
        raise UrlRefused(f"'{url}' is not a URL") from None
    if parts.scheme != "https" and not (allow_http and parts.scheme == "http"):
        raise UrlRefused(
            f"'{url}' is not https:// (http:// is refused unless TALLYSTICK_BILLING_WEBHOOK_ALLOW_HTTP is set)"
        )
    if not name or parts.username is not None or parts.fragment or port == 0:
        raise UrlRefused(f"'{url}' needs a host, and neither user, password nor fragment")
    if not allow_private and (what := _wrong_literal(name)):
        raise UrlRefused(f"'{url}' leads to an address that is {what}: webhooks go to public addresses only")
    netloc = (f"[{name}]" if ":" in name else name) + (f":{port}" if port else "")
    return urlunsplit((parts.scheme, netloc, parts.path or "/", parts.query, ""))


def _wrong_literal(host: str) -> str | None:
    try:
        return refusal(ip_address(host))
    except ValueError:
        return "loopback" if host == "localhost" or host.endswith(".localhost") else None
