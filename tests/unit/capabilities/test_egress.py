"""Where a plugin may connect to: one reading of every address, and no way from a name to what is not public."""

from __future__ import annotations

from typing import Any

import pytest

from annexe.capabilities.egress import EgressRules, Target, parse_target, parse_url
from annexe.capabilities.egress_addresses import address_refusal
from annexe.errors import InvalidParamsError, PermissionDeniedError
from annexe.manifest import parse_manifest

MANIFEST = b"""
manifest-version = 1

[plugin]
id = "sample"
version = "1.0.0"

[runtime]
kind = "python"
entry = "sample"

[permissions]
network = ["api.example.org:443"]
"""


def rules(*targets: str) -> EgressRules:
    granted = frozenset({"kv", *(f"network:{target}" for target in targets)})
    return EgressRules(parse_manifest(MANIFEST, source="test"), granted, command="annexe grant sample")


@pytest.mark.parametrize(
    ("text", "shown", "right"),
    [
        pytest.param("https://api.example.org", "https://api.example.org/", "network:api.example.org:443", id="no-path"),
        pytest.param("HTTPS://API.Example.ORG/a", "https://api.example.org/a", "network:api.example.org:443", id="case"),
        pytest.param("http://api.example.org./", "http://api.example.org/", "network:api.example.org:80", id="trailing-dot"),
        pytest.param("http://api.example.org:8080/?q=1#f", "http://api.example.org:8080/?q=1", "network:api.example.org:8080", id="port"),
        pytest.param("https://api.example.org:443/", "https://api.example.org/", "network:api.example.org:443", id="own-port"),
        pytest.param("http://api.example.org:/", "http://api.example.org/", "network:api.example.org:80", id="empty-port"),
        pytest.param("http://h.example?a=b", "http://h.example/?a=b", "network:h.example:80", id="query-without-path"),
        pytest.param("http://h.example/@x:y", "http://h.example/@x:y", "network:h.example:80", id="at-in-path"),
        pytest.param("http://h.example/ä\u3002", "http://h.example/%C3%A4%E3%80%82", "network:h.example:80", id="letters-in-path"),
        pytest.param('http://h.example/"<{%41', "http://h.example/%22%3C%7B%41", "network:h.example:80", id="escapes"),
        pytest.param("http://Bücher.example/", "http://xn--bcher-kva.example/", "network:xn--bcher-kva.example:80", id="idna"),
        pytest.param("http://api\u3002example\uff0eorg/", "http://api.example.org/", "network:api.example.org:80", id="unicode-dots"),
        pytest.param("http://\uff11\uff12\uff17.\uff10.\uff10.\uff11/", "http://127.0.0.1/", "network:127.0.0.1:80", id="wide-digits"),
        pytest.param("http://[2001:DB8:0::1]:81/", "http://[2001:db8::1]:81/", "network:[2001:db8::1]:81", id="ipv6"),
        pytest.param("http://127.0.0.1:9000/x", "http://127.0.0.1:9000/x", "network:127.0.0.1:9000", id="ipv4"),
    ],
)
def test_url_has_one_reading(text: str, shown: str, right: str) -> None:
    url = parse_url(text)
    assert (str(url), url.target.right) == (shown, right)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("api.example.org", id="no-scheme"),
        pytest.param("//api.example.org/", id="no-scheme-slashes"),
        pytest.param("http:/api.example.org/", id="one-slash"),
        pytest.param("http:///path", id="no-host"),
        pytest.param("file:///etc/passwd", id="file"),
        pytest.param("gopher://h.example/", id="gopher"),
        pytest.param("ftp://h.example/", id="ftp"),
        pytest.param("unix:///run/x", id="unix"),
        pytest.param("http://api.example.org@evil.example/", id="user"),
        pytest.param("http://user:secret@api.example.org/", id="user-and-password"),
        pytest.param("http://@api.example.org/", id="empty-user"),
        pytest.param("http://api.example.org\\@evil.example/", id="backslash"),
        pytest.param("http://evil.example\\.api.example.org/", id="backslash-in-host"),
        pytest.param("http://evil.example\uff20api.example.org/", id="wide-at"),
        pytest.param("http://evil.example\uff0f.api.example.org/", id="wide-slash"),
        pytest.param("http://api.example.org\uff1a80/", id="wide-colon"),
        pytest.param("http://api.example.org/ HTTP/1.1", id="blank"),
        pytest.param("http://api.example.org/\r\nX: y", id="line-end"),
        pytest.param("http://api.example.org/\n", id="line-feed-at-end"),
        pytest.param("\thttp://api.example.org/", id="tab-before"),
        pytest.param("http://api.exa\tmple.org/", id="tab-in-host"),
        pytest.param("http://api.example.org/\x00", id="nul"),
        pytest.param("http://api.example.org/\x85", id="next-line"),
        pytest.param("http://api.example.org/\xa0", id="hard-blank"),
        pytest.param("http://api.example.org/\x7f", id="delete"),
        pytest.param("http://api.example.org/\ud800", id="surrogate"),
        pytest.param("http://127%2e0.0.1/", id="escaped-dot"),
        pytest.param("http://%31%32%37.0.0.1/", id="escaped-digits"),
        pytest.param("http://0x7f.1/", id="hexadecimal"),
        pytest.param("http://0x7f000001/", id="hexadecimal-number"),
        pytest.param("http://2130706433/", id="number"),
        pytest.param("http://127.1/", id="short"),
        pytest.param("http://0177.0.0.1/", id="octal"),
        pytest.param("http://127.0.0.1.1/", id="five-parts"),
        pytest.param("http://127.0.0.256/", id="above-255"),
        pytest.param("http://h.example..:80/", id="two-trailing-dots"),
        pytest.param("http://.h.example/", id="leading-dot"),
        pytest.param("http://./", id="dot"),
        pytest.param("http://-h.example/", id="leading-hyphen"),
        pytest.param("http://h.example:0/", id="port-0"),
        pytest.param("http://h.example:65536/", id="port-above"),
        pytest.param("http://h.example:0080/", id="port-with-zeros"),
        pytest.param("http://h.example:80:80/", id="two-ports"),
        pytest.param("http://h.example:+80/", id="port-with-sign"),
        pytest.param("http://h.example:\uff18\uff10/", id="wide-port"),
        pytest.param("http://[::1", id="open-bracket"),
        pytest.param("http://::1/", id="no-brackets"),
        pytest.param("http://[::1]evil.example/", id="after-bracket"),
        pytest.param("http://[fe80::1%25eth0]/", id="zone"),
        pytest.param("http://[fe80::1%eth0]/", id="bare-zone"),
        pytest.param("http://[v1.x]/", id="future-address"),
        pytest.param("http://[127.0.0.1]/", id="ipv4-in-brackets"),
        pytest.param("http://a b/", id="blank-in-host"),
        pytest.param("http://" + "ä" * 300 + ".example/", id="long-idna"),
        pytest.param("http://" + "ä" * 80 + ".example/", id="long-idna-label"),
        pytest.param("http://h.example/" + "a" * 8192, id="long"),
    ],
)
def test_url_with_another_reading_is_refused(text: str) -> None:
    with pytest.raises(InvalidParamsError) as caught:
        parse_url(text)
    assert caught.value.data == {"method": "fetch"}
    assert caught.value.message.isascii() and caught.value.message.isprintable() and len(caught.value.message) < 1200


def test_target_without_port_is_refused() -> None:
    assert parse_target("h.example:1") == Target("h.example", 1)
    for text in ("h.example", "h.example:", "[::1]"):
        with pytest.raises(InvalidParamsError):
            parse_target(text)


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("https://evil.example/", id="host"),
        pytest.param("http://api.example.org/", id="port-of-scheme"),
        pytest.param("https://api.example.org:444/", id="port"),
        pytest.param("https://x.api.example.org/", id="name-below"),
        pytest.param("https://example.org/", id="name-above"),
        pytest.param("https://127.0.0.1:443/", id="address"),
        pytest.param("https://[::ffff:127.0.0.1]:443/", id="mapped"),
    ],
)
def test_target_that_was_not_granted_is_denied_with_the_manifests_line(url: str) -> None:
    target = parse_url(url).target
    with pytest.raises(PermissionDeniedError) as caught:
        rules("api.example.org:443", "h.example:80").check_target(target)
    facts: dict[str, Any] = dict(caught.value.data)
    assert facts == {
        "permission": f"network:{target}",
        "manifest_line": f'network = ["api.example.org:443", "{target}"]',
        "command": "annexe grant sample",
    }


def test_target_that_was_granted_is_allowed_in_every_spelling() -> None:
    allowed = rules("api.example.org:443", "127.0.0.1:9000")
    for text in ("https://API.example.org./", "https://api.example.org:443/", "http://127.0.0.1:9000/"):
        allowed.check_target(parse_url(text).target)


NOT_PUBLIC = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.5",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:0:7f00:1::",
    "2001:2::1",
    "2001:10::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "2a00::5efe:127.0.0.1",
    "2a00::200:5efe:10.0.0.1",
    "3fff::1",
    "4000::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "2a00::1%1",
    "fec0::1",
    "ff02::1",
    "0x7f.1",
    "",
]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_name_that_leads_to_no_public_address_is_refused(address: str) -> None:
    assert address_refusal(address)
    with pytest.raises(PermissionDeniedError) as caught:
        rules("h.example:80").check_address(Target("h.example", 80), address)
    assert f"h.example leads to {address}" in caught.value.message and "annexe grant sample" in caught.value.message
    assert caught.value.data["permission"].startswith("network:")
    assert caught.value.plugin == "sample"


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "100.63.255.255",
        "100.128.0.1",
        "172.15.255.255",
        "172.32.0.1",
        "192.0.1.1",
        "223.255.255.255",
        "::ffff:1.1.1.1",
        "64:ff9b::1.1.1.1",
        "2002:101:101::1",
        "2001:200::1",
        "2001:4860:4860::8888",
        "2606:4700::1111",
        "2a00::5efe:1.1.1.1",
    ],
)
def test_name_that_leads_to_a_public_address_is_allowed(address: str) -> None:
    rules("h.example:80").check_address(Target("h.example", 80), address)


def test_address_that_was_granted_is_that_very_one() -> None:
    granted = rules("127.0.0.1:80", "[::1]:80")
    granted.check_address(Target("127.0.0.1", 80), "127.0.0.1")
    granted.check_address(Target("[::1]", 80), "::1")
    with pytest.raises(PermissionDeniedError) as caught:
        granted.check_address(Target("127.0.0.1", 80), "127.0.0.2")
    assert caught.value.data["permission"] == "network:127.0.0.2:80"


def test_name_may_not_lead_to_an_address_that_was_granted_by_itself() -> None:
    with pytest.raises(PermissionDeniedError) as caught:
        rules("h.example:80", "[::1]:80").check_address(Target("h.example", 80), "::1")
    assert caught.value.data["permission"] == "network:[::1]:80"
    assert caught.value.message.endswith("use the address [::1]:80 in the URL, which was granted")


def test_name_that_leads_to_an_address_that_was_not_granted_is_told_to_ask_for_it_and_to_use_it() -> None:
    with pytest.raises(PermissionDeniedError) as caught:
        rules("localhost:80").check_address(Target("localhost", 80), "127.0.0.1")
    assert "use the address 127.0.0.1:80 in the URL, once that very address is granted: plugin 'sample'" in caught.value.message
    assert caught.value.data["manifest_line"].startswith("network = ")
