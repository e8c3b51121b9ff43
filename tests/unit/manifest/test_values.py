"""Single values, names and rights."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date

import pytest

from annexe.manifest import names, rights, values
from annexe.manifest.model import Permissions
from annexe.manifest.values import MisfitError

Convert = Callable[[object], object]


@pytest.mark.parametrize(
    ("convert", "value", "expected"),
    [
        (values.text, "Größe", "Größe"),
        (values.boolean, False, False),
        (values.integer(1, 3), 3, 3),
        (values.number(0, 2), 2, 2.0),
        (values.number(0, 2), 0.5, 0.5),
        (values.size_bytes, "1B", 1),
        (values.size_bytes, "128MiB", 128 * 1024 * 1024),
        (values.size_bytes, "2TiB", 2 * 1024**4),
        (values.duration_s, "500ms", 0.5),
        (values.duration_s, "1s", 1.0),
        (values.duration_s, "1.5s", 1.5),
        (values.duration_s, "10m", 600.0),
        (values.duration_s, "2h", 7200.0),
        (values.start_timeout_s, "10m", 600.0),
        (values.homepage, "https://example.org/x", "https://example.org/x"),
        (values.choice("a", "b"), "b", "b"),
        (names.word, "api-key", "api-key"),
        (names.word, "api_key2", "api_key2"),
        (names.dotted_name, "chat.on_request", "chat.on_request"),
        (names.module_name, "pkg.sub.mod", "pkg.sub.mod"),
        (names.env_name, "HTTP_TIMEOUT", "HTTP_TIMEOUT"),
        (names.library_name, "libstdc++.so.6", "libstdc++.so.6"),
        (names.target_triple, "x86_64-unknown-linux-gnu", "x86_64-unknown-linux-gnu"),
        (names.route_path, "/", "/"),
        (names.route_path, "/redactions/{id}", "/redactions/{id}"),
        (names.relative_path, "bin/tool.exe", "bin/tool.exe"),
        (names.absolute_path, "/srv/models/", "/srv/models"),
        (names.absolute_path, "/device", "/device"),
        (names.network_target, "API.Example.org:443", "api.example.org:443"),
        (names.network_target, "localhost:80", "localhost:80"),
        (names.network_target, "127.0.0.1:65535", "127.0.0.1:65535"),
        (names.network_target, "[2001:DB8:0::1]:1", "[2001:db8::1]:1"),
        (rights.right, "kv", "kv"),
        (rights.right, "cap:orders", "cap:orders"),
        (rights.right, "network:A.example:443", "network:a.example:443"),
        (rights.right, "filesystem.read:/srv/x/", "filesystem.read:/srv/x"),
        (rights.right_or_whole_kind, "network:*", "network:*"),
        (rights.right_or_whole_kind, "kv", "kv"),
    ],
)
def test_value_that_fits_is_converted(convert: Convert, value: object, expected: object) -> None:
    converted = convert(value)
    assert converted == expected
    assert type(converted) is type(expected)


@pytest.mark.parametrize(
    ("convert", "value", "expected"),
    [
        *[(values.text, value, "one line of text") for value in ("", "two\nlines", "\x1b[31mred", "\u202eback", "x" * 1025, 1)],
        (values.boolean, 1, "true or false"),
        *[(values.integer(1, 3), value, "from 1 to 3") for value in (0, 4, True, 1.0, "1", 2**100)],
        *[(values.number(0, 2), value, "greater than 0, up to 2") for value in (0, 2.1, math.nan, math.inf, True, "1")],
        *[(values.size_bytes, value, "128MiB") for value in ("0B", "1", "1MB", "1.5MiB", "-1B", "1MiB\n", "\uff11B", 5)],
        *[(values.start_timeout_s, value, "at most ten minutes") for value in ("601s", "23h", "0s", 5)],
        *[(values.drain_s, value, "'0s', or a duration such as") for value in ("0", "0ms", 0, "-1s")],
        *[(values.duration_s, value, "10m") for value in ("0s", "1", "1d", "-1s", "8000h", "1e3s", "1s\n", 5, "nan")],
        *[
            (values.homepage, value, "web address")
            for value in ("example.org", "ftp://x", "https://", "https://a b", "https://[x", "https://a\n")
        ],
        (values.choice("a", "b"), "c", "one of 'a', 'b'"),
        (values.plugin_id, "Bad_Id", "plugin id"),
        *[(names.word, value, "lower-case") for value in ("", "A", "-a", "a--b", "a" * 129, "a.b", "a\n")],
        *[(names.dotted_name, value, "joined by dots") for value in ("chat", "chat.", ".x", "a..b", "Chat.x")],
        *[(names.module_name, value, "module inside") for value in ("", "a..b", ".a", "a/b", "../x", "/x", "1a", "a b", "ä")],
        *[
            (names.env_name, value, "environment")
            for value in ("1A", "A-B", "LD_PRELOAD", "PYTHONPATH", "ANNEXE_FD", "DYLD_X", "HOME", "PATH", "TMPDIR", "ld_x", "")
        ],
        *[(names.library_name, value, "library") for value in ("", ".", "..", "a/b", "a b", "\\x")],
        *[(names.target_triple, value, "triple") for value in ("linux", "X-y", "a/b-c")],
        *[(names.route_path, value, "path such as") for value in ("", "x", "//x", "/a//b", "/a b", "/%2e")],
        *[(names.relative_path, value, "relative") for value in ("", "/x", "../x", "a/../b", "./a", "a//b", "a\\b", "a/", "a\0b", 3)],
        *[
            (names.absolute_path, value, "absolute path")
            for value in ("", "/", "x", "//x", "/a/../b", "/a/.", "/proc", "/proc/1", "/sys/x", "/dev/", "/dev/sda", "/a\n", 3)
        ],
        *[
            (names.network_target, value, "host:port")
            for value in (
                "example.org",
                ":80",
                "a:0",
                "a:65536",
                "a:080",
                "a:x",
                "*.a:1",
                "https://a:443",
                "-a:1",
                "127.1:80",
                "0x7f.1:80",
                "a.1:80",
                "1.2.3.256:80",
                "[::g]:1",
                "[fe80::1%eth0]:1",
                "::1:80",
                "a" * 64 + ":1",
                "a." * 127 + "a:1",
                ".:1",
                80,
            )
        ],
        (rights.right, 1, "a right such as"),
        (rights.right, "kvs", "one of the kinds kv, data"),
        (rights.right, "kv:x", "'kv' without a name"),
        (rights.right, "cap", "lower-case"),
        (rights.right, "devices:disk", "'gpu'"),
        (rights.right, "network:*", "host:port"),
        (rights.right_or_whole_kind, "kv:*", "'kv' without a name"),
        (rights.right_or_whole_kind, "*", "one of the kinds"),
        (rights.right_or_whole_kind, 5, "a right such as"),
        (values.text, date(2020, 1, 1), "one line"),
    ],
)
def test_value_that_does_not_fit_is_refused(convert: Convert, value: object, expected: str) -> None:
    with pytest.raises(MisfitError) as caught:
        convert(value)
    assert expected in caught.value.expected


def test_kind_of_a_right_is_what_stands_before_the_first_colon() -> None:
    assert rights.kind_of("network:[::1]:80") == "network"
    assert rights.kind_of("kv") == "kv"


@pytest.mark.parametrize(
    ("right", "line"),
    [
        ("kv", 'kv = { quota = "1MiB" }'),
        ("data", 'data = { quota = "50MiB" }'),
        ("subprocess", "subprocess = true"),
        ("cap:orders", 'capabilities = ["orders"]'),
        ("network:b.example:1", 'network = ["a.example:1", "b.example:1"]'),
        ("filesystem.write:/srv/x", 'filesystem = { read = ["/srv/r"], write = ["/srv/x"] }'),
        ("events.publish:a.b", 'events = { publish = ["a.b"] }'),
        ("network:a.example:1", ""),
    ],
)
def test_manifest_line_asks_beside_what_is_asked_for(right: str, line: str) -> None:
    assert rights.manifest_line(right, Permissions(network=("a.example:1",), filesystem_read=("/srv/r",))) == line


def test_manifest_lines_ask_for_all_rights_under_a_key_in_one_line() -> None:
    asked = Permissions(network=("a.example:1",))
    wanted = ["network:a.example:1", "network:c.example:1", "network:b.example:1", "events.publish:a.b", "events.subscribe:c.d", "kv"]
    network, events = 'network = ["a.example:1", "b.example:1", "c.example:1"]', 'events = { publish = ["a.b"], subscribe = ["c.d"] }'
    assert rights.manifest_lines(wanted, asked) == {
        "network:b.example:1": network,
        "network:c.example:1": network,
        "events.publish:a.b": events,
        "events.subscribe:c.d": events,
        "kv": 'kv = { quota = "1MiB" }',
    }


@pytest.mark.parametrize(
    ("line", "found"),
    [
        pytest.param('kv = { quota = "1MiB" }', {"kv"}, id="quota"),
        pytest.param("subprocess = true", {"subprocess"}, id="plain"),
        pytest.param('capabilities = ["a", "b"]', {"cap:a", "cap:b"}, id="array"),
        pytest.param(
            'filesystem = { read = ["/srv/r"], write = ["/srv/w"] }', {"filesystem.read:/srv/r", "filesystem.write:/srv/w"}, id="table"
        ),
        pytest.param("filesystem = true", set(), id="no-table"),
        pytest.param('env = ["A-B"]', set(), id="misfit"),
        pytest.param("nonsense = 1", set(), id="unknown"),
        pytest.param("[[[", set(), id="no-toml"),
        pytest.param("a = " + "[" * 10_000, set(), id="deep"),
        pytest.param('provide = ["words"]', set(), id="a-claim-which-no-line-gives"),
        pytest.param('services = ["words"]', {"services:words"}, id="a-service"),
    ],
)
def test_rights_in_a_line_of_the_manifest(line: str, found: set[str]) -> None:
    assert rights.rights_in(line) == found
