"""Which addresses a name may lead to: public ones, and no others.

Pure. A plugin that may reach ``api.example.org`` shall not reach the host's own network because somebody lets that name lead there.

* What is not known to be public is refused. The tables are ours, so that they do not differ from one Python to the next.
* An IPv4 address inside an IPv6 one (mapped, NAT64, 6to4, ISATAP) is held against the IPv4 table.

Source: IANA special-purpose address registries (RFC 6890); RFC 6052 (NAT64), RFC 3056 (6to4), RFC 5214 (ISATAP).
"""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

__all__ = ["address_refusal"]

_REFUSED_4 = tuple(
    (IPv4Network(network), why)
    for network, why in (
        ("0.0.0.0/8", "an unspecified address"),
        ("10.0.0.0/8", "a private address"),
        ("100.64.0.0/10", "an address shared behind a carrier's NAT"),
        ("127.0.0.0/8", "a loopback address"),
        ("168.63.129.16/32", "a cloud's own service"),  # Azure's, reached from its machines alone though it looks public
        ("169.254.0.0/16", "a link-local address, where clouds keep credentials"),
        ("172.16.0.0/12", "a private address"),
        ("192.0.0.0/24", "a reserved address"),
        ("192.0.2.0/24", "a documentation address"),
        ("192.88.99.0/24", "a reserved address"),
        ("192.168.0.0/16", "a private address"),
        ("198.18.0.0/15", "a benchmark's address"),
        ("198.51.100.0/24", "a documentation address"),
        ("203.0.113.0/24", "a documentation address"),
        ("224.0.0.0/4", "a multicast address"),
        ("240.0.0.0/4", "a reserved address"),
    )
)
_PUBLIC_6 = IPv6Network("2000::/3")
_REFUSED_6 = tuple(
    (IPv6Network(network), why)
    for network, why in (
        ("::/128", "an unspecified address"),
        ("::1/128", "a loopback address"),
        ("2001::/23", "a reserved address"),  # Teredo among them
        ("2001:db8::/32", "a documentation address"),
        ("3fff::/20", "a documentation address"),
        ("fc00::/7", "a private address"),
        ("fe80::/10", "a link-local address"),
        ("fec0::/10", "a site-local address"),
        ("ff00::/8", "a multicast address"),
    )
)
# Prefixes that hold an IPv4 address, and how far its last bit is from the end.
_HOLDS_4 = ((IPv6Network("::ffff:0:0/96"), 0), (IPv6Network("64:ff9b::/96"), 0), (IPv6Network("2002::/16"), 80))
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)


def address_refusal(address: str) -> str:
    """Say why a name may not lead to an address.

    Args:
        address: As a resolver gives it, without brackets.

    Returns:
        What it is, as it continues "which is ..."; empty when it is public.
    """
    if "%" in address:
        return "an address of one interface"
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return "no address"
    return _refusal_4(ip) if isinstance(ip, IPv4Address) else _refusal_6(ip)


def _refusal_4(ip: IPv4Address) -> str:
    return next((why for network, why in _REFUSED_4 if ip in network), "")


def _refusal_6(ip: IPv6Address) -> str:
    number = int(ip)
    for network, shift in _HOLDS_4:
        if ip in network:
            return _refusal_4(IPv4Address(number >> shift & 0xFFFF_FFFF))
    for network, why in _REFUSED_6:
        if ip in network:
            return why
    if ip not in _PUBLIC_6:
        return "a reserved address"
    if number >> 32 & 0xFFFF_FFFF in _ISATAP:
        return _refusal_4(IPv4Address(number & 0xFFFF_FFFF))
    return ""
