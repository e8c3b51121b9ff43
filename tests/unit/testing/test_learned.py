from __future__ import annotations

import pytest

from annexe.testing.learned import Learned, learn

REFUSED = {"/etc": "it has programs", "/srv": "it is a whole folder", "/srv/secret": "it is secret"}


def learned(*facts: tuple[str, str], asked: frozenset[str] = frozenset()) -> Learned:
    return learn(
        facts,
        asked=asked,
        own="/plugins/demo",
        seen=["/usr/lib", "/etc/localtime", "/tmp/venv"],
        why_not=lambda path, for_writing: REFUSED.get(path, "" if path != "/srv/read-only" or not for_writing else "it is read-only"),
    )


@pytest.mark.parametrize(
    ("facts", "rights"),
    [
        pytest.param([("right", "kv"), ("right", "cap:orders"), ("ran", "limits")], {"kv", "cap:orders"}, id="served-by-the-host"),
        pytest.param([("start", "git"), ("start", "ls")], {"subprocess"}, id="programs"),
        pytest.param(
            [("variable", "HTTP_TIMEOUT"), ("variable", "LANG"), ("variable", "LC_ALL"), ("variable", "PYTHONPATH")],
            {"env:HTTP_TIMEOUT"},
            id="variables-without-everybodys-and-nobodys",
        ),
        pytest.param(
            [("connect", "API.example.org:443"), ("connect", "[::1]:80")], {"network:api.example.org:443", "network:[::1]:80"}, id="network"
        ),
        pytest.param([("read", "/srv/models/a")], {"filesystem.read:/srv/models/a"}, id="one-file"),
        pytest.param(
            [("read", "/srv/m/a"), ("read", "/srv/m/b")], {"filesystem.read:/srv/m/a", "filesystem.read:/srv/m/b"}, id="two-files"
        ),
        pytest.param([("read", f"/srv/m/{name}") for name in "abc"], {"filesystem.read:/srv/m"}, id="three-files-are-a-folder"),
        pytest.param(
            [("read", f"/srv/{name}") for name in "abc"], {f"filesystem.read:/srv/{name}" for name in "abc"}, id="but-not-a-whole-one"
        ),
        pytest.param([("list", "/srv/m"), ("read", "/srv/m/deep/a")], {"filesystem.read:/srv/m"}, id="a-listed-folder-has-what-is-in-it"),
        pytest.param([("list", "/srv/m"), ("list", "/srv/m/deep")], {"filesystem.read:/srv/m"}, id="a-folder-in-a-folder"),
        pytest.param([("read", "/tmp/words")], {"filesystem.read:/tmp/words"}, id="temporary-of-another"),
        pytest.param(
            [("write", "/tmp/box/out"), ("read", "/tmp/box/in"), ("list", "/var/tmp/pile"), ("read", "/var/tmp/pile/a")],
            {"filesystem.write:/tmp/box", "filesystem.read:/var/tmp/pile"},
            id="temporary-folders-of-others",
        ),
        pytest.param(
            [
                ("write", "/tmp/tmpa_9bcdef"),
                ("write", "/tmp/tmpa_9bcdef/a"),
                ("read", "/tmp/tmpa_9bcdef/a"),
                ("write", "/tmp/tmp_8901234.json"),
            ],
            set(),
            id="temporary-of-its-own",
        ),
        pytest.param(
            [("write", "/tmp/ann/tmpa_9bcdef"), ("write", "/tmp/ann/tmpa_9bcdef/a")], set(), id="temporary-of-its-own-in-a-folder-for-that"
        ),
        pytest.param(
            [("write", "/srv/out/a"), ("read", "/srv/out/a"), ("write", "/srv/out/deep/b")], {"filesystem.write:/srv/out"}, id="written"
        ),
        pytest.param(
            [("read", "/plugins/demo/data.json"), ("read", "/usr/lib/x"), ("read", "/tmp/venv/x"), ("read", "/etc/localtime")],
            set(),
            id="what-everybody-sees",
        ),
        pytest.param([("read", "/proc/self/stat"), ("write", "/dev/null"), ("read", "/sys/x")], set(), id="the-kernels"),
        pytest.param([("read", "/dev/nvidia0"), ("write", "/dev/dri/card0")], {"devices:gpu"}, id="devices"),
    ],
)
def test_what_was_used_becomes_the_least_that_allows_it(facts: list[tuple[str, str]], rights: set[str]) -> None:
    assert learned(*facts) == Learned(rights=frozenset(rights))


def test_file_of_the_plugins_own_among_byte_code_is_told() -> None:
    assert learned(("write", "/plugins/demo/__pycache__/notes.txt")).notes


def test_byte_code_that_the_interpreter_writes_under_test_is_nothing_of_the_plugins() -> None:
    assert learned(("write", "/plugins/demo/pkg/__pycache__/mod.cpython-311.pyc")) == Learned(rights=frozenset())


@pytest.mark.parametrize(
    ("fact", "note"),
    [
        (("socket", "/run/x"), "it connected to the local socket /run/x, which no right gives"),
        (("listen", "0.0.0.0:80"), "it listened at 0.0.0.0:80, which no right gives"),
        (("connect", "not a host:1"), "it connected to not a host:1, which cannot be asked for: expected a host and a port"),
        (
            ("write", "/plugins/demo/x"),
            "it wrote to /plugins/demo/x: its own folder is read-only to it; ask for data, and write into ctx.data_dir",
        ),
        (("list", "/tmp"), "it used /tmp: a plugin has temporary files of its own and sees nobody else's"),
        (
            ("read", "/tmp/pytest-of-ann/pytest-1/x"),
            "it used /tmp/pytest-of-ann/pytest-1/x: a plugin has temporary files of its own and sees nobody else's",
        ),
        (("read", "/tmp/tmpa_9bcdef"), "it used /tmp/tmpa_9bcdef: a plugin has temporary files of its own and sees nobody else's"),
        (
            ("read", "/tmp/ann/tmpa_9bcdef/x"),
            "it used /tmp/ann/tmpa_9bcdef/x: a plugin has temporary files of its own and sees nobody else's",
        ),
        (
            ("write", "/tmp/report"),
            "it made /tmp/report: nobody else sees what a plugin leaves in /tmp, and it goes with the plugin",
        ),
        (("read", "/srv/secret"), "it read /srv/secret, which nobody is granted: it is secret"),
        (("write", "/etc/x"), "it wrote in /etc, which nobody is granted: it has programs"),
        (("write", "/srv/read-only/x"), "it wrote in /srv/read-only, which nobody is granted: it is read-only"),
    ],
)
def test_what_no_right_gives_is_told(fact: tuple[str, str], note: str) -> None:
    assert learned(fact) == Learned(rights=frozenset(), notes=(note,))


def test_a_temporary_path_that_is_asked_for_and_used_stays() -> None:
    asked = frozenset({"filesystem.read:/tmp/pytest-of-ann/words", "filesystem.write:/tmp/out", "filesystem.read:/tmp/unused"})
    used = learned(("read", "/tmp/pytest-of-ann/words"), ("write", "/tmp/out/deep/x"), ("write", "/tmp/out/y"), asked=asked)
    assert used == Learned(rights=frozenset({"filesystem.read:/tmp/pytest-of-ann/words", "filesystem.write:/tmp/out"}))


def test_what_nothing_serves_yet_is_kept_and_all_else_goes_unless_it_is_used() -> None:
    asked = frozenset({"kv", "subprocess", "secrets:key", "services:tokenizer", "events.publish:a.done", "events.subscribe:b.done", "data"})
    assert learned(("right", "data"), asked=asked).rights == asked - {"kv", "subprocess"}


def test_shared_memory_of_the_kernels_folder_needs_no_note() -> None:
    assert learned(("write", "/dev/shm/x")) == Learned(rights=frozenset())
