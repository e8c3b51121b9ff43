from __future__ import annotations

import pytest

from annexe.manifest import Permissions, parse_manifest
from annexe.manifest.permission_edit import asking_for, permission_lines, with_permissions

HEAD = """manifest-version = 1

[plugin]
id = "demo"
version = "1.0.0"

[runtime]
kind = "python"
entry = "demo"
"""

EVERYTHING = Permissions(
    kv_quota_bytes=64 * 1024,
    data_quota_bytes=3 * 1024**3,
    data_kept="memory",
    network=("b.example:443", "a.example:80"),
    filesystem_read=("/srv/a",),
    filesystem_write=(),
    env=("A",),
    secrets=("key",),
    services=("tokenizer",),
    events_publish=("a.done",),
    events_subscribe=("b.done",),
    capabilities=("orders",),
    devices=("gpu",),
    subprocess=True,
)


def asked(text: str) -> Permissions:
    return parse_manifest(text.encode(), source="test").permissions


def changed(table: str, *rights: str) -> str:
    """Return what becomes of a manifest's end when it is to ask for these rights."""
    text = HEAD + table
    was = asked(text)
    permissions = asking_for(rights, was=was)
    edited = with_permissions(text, permissions, was=was)
    assert edited.startswith(HEAD)
    assert asked(edited).as_set() == set(rights)
    return edited.removeprefix(HEAD)


def test_lines_ask_for_all_that_there_is() -> None:
    lines = permission_lines(EVERYTHING)
    topics = '[provides.topics]\n"a.done" = {}\n'
    assert asked(HEAD + topics + "[permissions]\n" + "\n".join(lines.values())) == EVERYTHING
    assert lines["kv"] == 'kv = { quota = "64KiB" }'
    assert lines["data"] == 'data = { quota = "3GiB", kept = "memory" }'
    assert permission_lines(Permissions()) == {}


def test_rights_become_what_asks_for_them_with_quotas_and_order_kept() -> None:
    rights = EVERYTHING.as_set() - {"env:A", "subprocess"} | {"network:0.example:1", "filesystem.write:/srv/b"}
    found = asking_for(rights, was=EVERYTHING)
    assert found.as_set() == rights
    assert found.network == ("b.example:443", "a.example:80", "0.example:1")
    assert (found.kv_quota_bytes, found.data_quota_bytes, found.data_kept) == (64 * 1024, 3 * 1024**3, "memory")
    fresh = asking_for(["kv", "data"], was=Permissions())
    assert list(permission_lines(fresh).values()) == ['kv = { quota = "1MiB" }', 'data = { quota = "50MiB" }']
    assert asking_for([], was=EVERYTHING).as_set() == frozenset()


@pytest.mark.parametrize(
    ("table", "rights", "after"),
    [
        pytest.param("", ["kv"], '\n[permissions]\nkv = { quota = "1MiB" }\n', id="no-table-yet"),
        pytest.param(
            "\n\n# the end\n", ["subprocess"], "\n\n# the end\n\n[permissions]\nsubprocess = true\n", id="no-table-yet-after-a-comment"
        ),
        pytest.param("# the end", [], "# the end", id="nothing-to-change"),
        pytest.param("\n[permissions]\n", ["subprocess"], "\n[permissions]\nsubprocess = true\n", id="empty-table"),
        pytest.param(
            '\n[permissions]  # all\n# of old\nenv = ["A"]  # why "#" not\nkv = {}\n\n[config]\nschema = "s.json"\n',
            ["env:B", "kv", "subprocess"],
            '\n[permissions]  # all\n# of old\nenv = ["B"]  # why "#" not\nkv = {}\nsubprocess = true\n\n[config]\nschema = "s.json"\n',
            id="comments-and-what-stays-are-kept",
        ),
        pytest.param(
            '\n[permissions]\nenv = ["A#"]\n'.replace("A#", "A") + "subprocess = true\n",
            ["env:A"],
            '\n[permissions]\nenv = ["A"]\n',
            id="one-goes",
        ),
        pytest.param(
            '\n[permissions]\nnetwork = [\n  "a.example:1",  # one\n  "b.example:2",\n]\nsubprocess = true\n',
            ["network:a.example:1", "subprocess"],
            '\n[permissions]\nnetwork = ["a.example:1"]\nsubprocess = true\n',
            id="several-lines-become-one",
        ),
        pytest.param(
            '\n[permissions]\nfilesystem = { read = ["/srv/a"] }\n',
            ["filesystem.read:/srv/a", "filesystem.write:/srv/b"],
            '\n[permissions]\nfilesystem = { read = ["/srv/a"], write = ["/srv/b"] }\n',
            id="one-table-for-reading-and-writing",
        ),
        pytest.param(
            '\n[permissions]\nkv = {}\n\n[permissions.filesystem]\nread = ["/srv/a"]\n',
            ["filesystem.read:/srv/a", "kv", "subprocess"],
            '\n[permissions]\nkv = {}\nsubprocess = true\n\n[permissions.filesystem]\nread = ["/srv/a"]\n',
            id="a-table-inside-that-stays",
        ),
    ],
)
def test_only_what_is_asked_for_differently_is_changed(table: str, rights: list[str], after: str) -> None:
    assert changed(table, *rights) == after


@pytest.mark.parametrize(
    ("table", "rights", "why"),
    [
        pytest.param('[permissions.filesystem]\nread = ["/srv/a"]\n', ["kv"], "not written as a table", id="no-table-of-its-own"),
        pytest.param('[permissions]\n[permissions.filesystem]\nread = ["/srv/a"]\n', [], "in parts", id="table-inside-that-changes"),
        pytest.param('[permissions]\nfilesystem.read = ["/srv/a"]\nfilesystem.write = ["/srv/b"]\n', [], "in parts", id="dotted-keys"),
        pytest.param(
            '[permissions]\nfilesystem.read = ["/srv/a"]\nfilesystem.write = ["/srv/b"]\n',
            ["filesystem.write:/srv/b"],
            "in parts",
            id="dotted-key-that-changes",
        ),
    ],
)
def test_a_form_that_is_not_understood_is_refused(table: str, rights: list[str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        changed(table, *rights)
