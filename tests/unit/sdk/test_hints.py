from __future__ import annotations

import errno
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from email.message import Message
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import pytest

from annexe.manifest import names
from annexe.manifest.model import Permissions
from annexe.manifest.rights import manifest_line
from annexe_sdk import hints
from annexe_sdk.hints import hint_for


def raised(code: str, *, module: str = "main", at: Path | None = None, **names: Any) -> Exception:
    """Return what code raises: in a module of that name, from a file that can be read if there is one."""
    if at is not None:
        at.write_text(code)
    space: dict[str, Any] = {"__name__": module, **names}
    try:
        exec(compile(code, at or "<nowhere>", "exec"), space)
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def within(module: str, function: str, error: Exception, **locals_: Any) -> Exception:
    """Return an error as a function of that module raises it, called with these."""
    code = f"def {function}({', '.join(locals_)}):\n    raise error\n{function}(**given)"
    return raised(code, module=module, error=error, given=locals_)


def hinted(error: Exception, *, level: str = "full", grants: list[str] | None = None, data_dir: str | None = None) -> str:
    return hint_for(error, level=level, grants=grants or [], data_dir=data_dir).get("manifest_line", "")


def refused(number: int, path: str | None = None) -> OSError:
    return OSError(number, "no", path) if path is not None else OSError(number, "no")


THEN = "; then have it granted with: annexe grant ID"
MISSING = refused(errno.ENOENT, "/srv/models/a.bin")
REFUSED = refused(errno.EACCES, "/srv/models/a.bin")


@pytest.mark.parametrize(
    "error", [MISSING, REFUSED, refused(errno.EPERM, "/srv/models/a.bin")], ids=["missing", "refused", "not-permitted"]
)
@pytest.mark.parametrize("level", ["full", "namespaces", "landlock", "landlock-partial"])
def test_a_path_that_is_not_shown_is_asked_for_to_be_read(error: OSError, level: str) -> None:
    assert hint_for(within("main", "load", error), level=level, grants=["kv"]) == {
        "hint": "a plugin sees only what it was granted; if /srv/models/a.bin is there, add to plugin.toml under [permissions]: "
        'filesystem = { read = ["/srv/models/a.bin"] }' + THEN,
        "permission": "filesystem.read:/srv/models/a.bin",
        "manifest_line": 'filesystem = { read = ["/srv/models/a.bin"] }',
    }


@pytest.mark.parametrize("level", ["limits", "none", ""])
def test_nothing_is_said_where_no_wall_could_have_refused(level: str) -> None:
    errors = [MISSING, within("subprocess", "run", refused(errno.EPERM)), within("socket", "connect", refused(errno.EACCES))]
    assert [hint_for(error, level=level, grants=[]) for error in errors] == [{}, {}, {}]


def test_the_line_keeps_what_is_asked_for_already_and_is_the_hosts_own() -> None:
    asked = Permissions(filesystem_read=("/srv/a",), filesystem_write=("/srv/b",), network=("a.org:443",), env=("A",))
    grants = sorted(asked.as_set())
    lookup = within("socket", "getaddrinfo", refused(errno.EACCES), host="b.org", port=80)
    for error, right in (
        (MISSING, "filesystem.read:/srv/models/a.bin"),
        (refused(errno.EROFS, "/srv/out/x"), "filesystem.write:/srv/out"),
        (lookup, "network:b.org:80"),
        (within("os", "__getitem__", KeyError("B")), "env:B"),
        (within("subprocess", "run", refused(errno.EPERM)), "subprocess"),
        (refused(errno.ENOENT, "/dev/nvidia0"), "devices:gpu"),
        (refused(errno.EROFS, f"{sys.path[-1]}/x"), "data"),
    ):
        found = hint_for(error, level="full", grants=grants)
        assert (found["permission"], found["manifest_line"]) == (right, manifest_line(right, asked))
        assert found["hint"].endswith(f"add to plugin.toml under [permissions]: {found['manifest_line']}{THEN}")


@pytest.mark.parametrize(
    ("error", "grants"),
    [
        pytest.param(MISSING, ["filesystem.read:/srv/models"], id="it-may-read-the-folder"),
        pytest.param(MISSING, ["filesystem.write:/srv/models/a.bin"], id="it-may-write-the-file"),
        pytest.param(refused(errno.ENOENT, f"{sys.base_prefix}/lib/no"), [], id="library"),
        pytest.param(refused(errno.ENOENT, "/tmp/tmpa_9bcdef/no"), [], id="temporary"),
        pytest.param(refused(errno.ENOENT, "/tmp/tmpa_9bcdef.json"), [], id="temporary-file"),
        pytest.param(refused(errno.ENOENT, "/tmp"), [], id="all-that-is-temporary"),
        pytest.param(refused(errno.ENOENT, "/srv/data/alpha/no"), [], id="its-own-data"),
        pytest.param(refused(errno.ENOENT, "/dev/dri/card0"), ["devices:gpu"], id="device"),
        pytest.param(refused(errno.ENOSPC, "/srv/x/y"), [], id="full-disk"),
        pytest.param(OSError("no number"), [], id="no-number"),
        pytest.param(refused(errno.EACCES), [], id="nothing-known"),
        pytest.param(within("subprocess", "run", refused(errno.ENOENT, "git")), ["subprocess"], id="program-is-not-there"),
        pytest.param(within("socket", "connect", refused(errno.ECONNREFUSED)), [], id="connection-refused"),
        pytest.param(OSError(errno.EACCES, "no", 3), [], id="descriptor"),
        pytest.param(KeyError("A"), [], id="not-raised"),
        pytest.param(within("main", "load", KeyError("A")), [], id="a-dictionary-of-its-own"),
        pytest.param(within("os", "__getitem__", KeyError(3)), [], id="not-a-name"),
        pytest.param(ValueError("x"), [], id="something-else"),
    ],
)
def test_an_error_that_is_no_refusal_is_left_alone(error: Exception, grants: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/tmp")
    assert hint_for(error, level="full", grants=grants, data_dir="/srv/data/alpha") == {}


def test_no_variable_is_hinted_that_the_manifest_refuses() -> None:
    assert (hints._STEERING, hints._HOSTS_OWN) == (names._STEERING_PREFIXES, names._HOSTS_OWN)


@pytest.mark.parametrize(
    "name",
    ["HOME", "PATH", "TMPDIR", "HTTP_PROXY", "https_proxy", "HTTP_TIMEOUT", "PYTHONPATH", "ld_preload", "ANNEXE_FD", "A-B", "\u00c4"],
)
def test_a_variable_is_asked_for_exactly_where_the_manifest_takes_it(name: str) -> None:
    line = hinted(within("os", "__getitem__", KeyError(name)))
    assert bool(line) is names.is_env_name(name)


@pytest.mark.parametrize(
    ("error", "part"),
    [
        pytest.param(refused(errno.ENOENT, "data.json"), "write: Path(__file__).parent / 'data.json'", id="relative"),
        pytest.param(refused(errno.EACCES, "/"), "nobody is granted the whole machine", id="root"),
        pytest.param(refused(errno.ENOENT, "/home"), "nobody is granted /home", id="whole-folder"),
        pytest.param(refused(errno.EACCES, "/proc/1/maps"), "of /proc no plugin is given more", id="kernel"),
        pytest.param(within("os", "__getitem__", KeyError("LD_PRELOAD")), "no plugin is given the variable LD_PRELOAD", id="steering"),
        pytest.param(within("os", "__getitem__", KeyError("GIVEN")), "but the host itself has no such variable", id="host-lacks-it"),
        pytest.param(within("socket", "connect", refused(errno.EACCES), address=("a.org", 80)), "use ctx.fetch", id="granted-host"),
        pytest.param(refused(errno.EROFS, f"{sys.path[-1]}/x"), "write into ctx.data_dir", id="own-folder"),
    ],
)
def test_what_no_right_mends_is_said_without_a_line(error: Exception, part: str) -> None:
    found = hint_for(error, level="full", grants=["env:GIVEN", "network:a.org:80"], data_dir="/srv/data/alpha")
    assert list(found) == ["hint"]
    assert part in found["hint"]


def test_somebody_elses_temporary_folder_is_pointed_away_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/var/cache/annexe/scratch/a")
    found = hint_for(refused(errno.EROFS, "/tmp/x"), level="landlock", grants=[])
    assert found == {"hint": "a plugin's temporary files are in /var/cache/annexe/scratch/a: use the module tempfile"}


@pytest.fixture
def own_tmp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a folder in ``/tmp``, for a plugin that has that to itself."""
    monkeypatch.setenv("TMPDIR", "/tmp")
    folder = Path(tempfile.mkdtemp(prefix="annexe-hints-", dir="/tmp"))
    yield folder
    folder.chmod(0o700)
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("error", "path", "line"),
    [
        pytest.param(errno.ENOENT, "words", 'filesystem = { read = ["PATH/words"] }', id="beside-what-was-granted"),
        pytest.param(errno.EACCES, "no/words", 'filesystem = { read = ["PATH/no/words"] }', id="deeper"),
        pytest.param(errno.EROFS, "out", 'filesystem = { write = ["PATH"] }', id="written"),
    ],
)
def test_the_machines_tmp_is_asked_for_by_a_plugin_that_made_nothing_there(own_tmp: Path, error: int, path: str, line: str) -> None:
    own_tmp.chmod(0o555)  # as a folder above what was granted is
    shown = hint_for(refused(error, f"{own_tmp}/{path}"), level="full", grants=[])
    own_tmp.chmod(0o700)
    shutil.rmtree(own_tmp)
    absent = hint_for(refused(error, f"{own_tmp}/{path}"), level="full", grants=[])
    own_tmp.mkdir()
    assert shown == absent
    assert shown["manifest_line"] == line.replace("PATH", str(own_tmp))
    assert "a plugin's /tmp is its own" in shown["hint"]


def test_what_is_missing_in_a_folder_that_the_plugin_made_is_just_missing(own_tmp: Path) -> None:
    assert hint_for(refused(errno.ENOENT, f"{own_tmp}/words"), level="full", grants=[]) == {}
    assert hint_for(refused(errno.ENOENT, f"{own_tmp}/no/words"), level="full", grants=[]) == {}


def test_a_temporary_folder_of_another_name_is_the_plugins_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/var/cache/annexe/scratch/a")
    assert hint_for(refused(errno.ENOENT, "/var/cache/annexe/scratch/a/words"), level="landlock", grants=[]) == {}
    found = hint_for(refused(errno.EROFS, "/tmp/a/b"), level="landlock", grants=[])
    assert found["permission"] == "filesystem.write:/tmp/a"
    assert "temporary files are in /var/cache/annexe/scratch/a: use the module tempfile; to write" in found["hint"]


@pytest.mark.parametrize(
    "code",
    [
        'open("/srv/no/a", "w")',
        "open('/srv/no/a', mode='ab')",
        'from pathlib import Path\nPath("/srv/no/a").write_text("x")',
        'from pathlib import Path\nPath("/srv/no/a").open("w")',
        'from pathlib import Path\nPath("/srv/no/a").touch()',
        'import os\nos.mkdir("/srv/no/a")',
        'import os\nos.remove("/srv/no/a")',
        'import os\nos.rename("/srv/no/a", "/tmp/b")',
        'import shutil\nshutil.copyfile(here, "/srv/no/a")',
    ],
)
def test_who_writes_is_told_how_to_write_into_the_folder(code: str, tmp_path: Path) -> None:
    at = tmp_path / "main.py"
    assert hinted(raised(code, at=at, here=__file__)) == 'filesystem = { write = ["/srv/no"] }'


@pytest.mark.parametrize(
    "code",
    [
        'open("/srv/no/a")',
        'open("/srv/no/a", "rb")',
        'from pathlib import Path\nPath("/srv/no/a").read_text()',
        'import os\nos.listdir("/srv/no/b".replace("b", "a"))',
        'import shutil\nshutil.copyfile("/srv/no/a", "/tmp/b")',
    ],
)
def test_who_reads_is_told_how_to_read_the_file(code: str, tmp_path: Path) -> None:
    assert hinted(raised(code, at=tmp_path / "main.py")) == 'filesystem = { read = ["/srv/no/a"] }'


def test_of_folders_made_one_in_another_the_last_is_what_was_wanted() -> None:
    inner = refused(errno.EROFS, "/srv")
    assert hinted(within("os", "makedirs", inner, name="/srv/out/deep")) == 'filesystem = { write = ["/srv/out"] }'


@pytest.mark.parametrize(
    ("error", "target"),
    [
        pytest.param(within("socket", "getaddrinfo", refused(errno.EACCES), host="A.org", port=443), "a.org:443", id="name"),
        pytest.param(within("socket", "create_connection", refused(errno.EACCES), address=("a.org", 80)), "a.org:80", id="address"),
        pytest.param(within("socket", "create_connection", refused(errno.EACCES), address=("::1", 80)), "[::1]:80", id="ipv6"),
        pytest.param(within("socket", "getaddrinfo", refused(errno.EACCES), host="a.org", port="https"), "host:port", id="named-port"),
        pytest.param(within("socket", "__init__", refused(errno.EACCES)), "host:port", id="bare-socket"),
    ],
)
def test_who_wants_the_network_is_told_the_target_where_it_is_known(error: Exception, target: str) -> None:
    found = hint_for(error, level="landlock", grants=[])
    assert found["hint"] == (
        "the host makes a plugin's connections: use ctx.fetch, or an HTTP client that heeds HTTPS_PROXY, and add to plugin.toml under "
        f'[permissions]: network = ["{target}"]{THEN}'
    )
    assert ("permission" in found) == (target != "host:port")


class Answer:
    """What requests and httpx keep of an answer; to requests a refusal is false."""

    def __init__(self, url: str, status: int = 403) -> None:
        self.url, self.status_code = url, status

    def __bool__(self) -> bool:
        return False


class ClientError(Exception):
    def __init__(self, answer: Answer) -> None:
        super().__init__("403 Client Error: Forbidden")
        self.response = answer


class Origin:
    host, port = b"b.org", 443


class Tunnel:
    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


def of_urllib(url: str, status: int = 403) -> Exception:
    return HTTPError(url, status, "Forbidden", Message(), BytesIO())


def of_tunnel(text: str = "Tunnel connection failed: 403 Forbidden", **attributes: Any) -> Exception:
    return within("http.client", "_tunnel", OSError(text), self=Tunnel(**attributes))


@pytest.mark.parametrize(
    ("error", "target"),
    [
        pytest.param(of_urllib("http://B.org/x"), "b.org:80", id="urllib"),
        pytest.param(of_urllib("http://127.0.0.1:8080/"), "127.0.0.1:8080", id="urllib-port"),
        pytest.param(ClientError(Answer("http://[::1]:80/x")), "[::1]:80", id="requests"),
        pytest.param(URLError(of_tunnel(_tunnel_host="b.org", _tunnel_port=443)), "b.org:443", id="urllib-tunnel"),
        pytest.param(of_tunnel("403 Forbidden", _remote_origin=Origin()), "b.org:443", id="httpx-tunnel"),
    ],
)
def test_who_is_refused_by_the_proxy_is_told_the_line(error: Exception, target: str) -> None:
    found = hint_for(error, level="full", grants=["network:a.org:443"])
    line = f'network = ["a.org:443", "{target}"]'
    assert found == {
        "hint": "the host's proxy connects a plugin to nothing but what it was granted; add to plugin.toml under [permissions]: "
        f"{line}{THEN}",
        "permission": f"network:{target}",
        "manifest_line": line,
    }


@pytest.mark.parametrize(
    ("error", "grants"),
    [
        pytest.param(of_urllib("http://a.org/"), ["network:a.org:80"], id="the-server-refused"),
        pytest.param(of_urllib("https://b.org/"), ["network:a.org:80"], id="within-a-tunnel"),
        pytest.param(of_urllib("http://b.org/", 404), ["network:a.org:80"], id="not-found"),
        pytest.param(of_urllib("http://b.org/"), ["kv"], id="no-proxy"),
        pytest.param(of_tunnel("Tunnel connection failed: 502", _tunnel_host="b.org", _tunnel_port=443), ["network:a.org:80"], id="502"),
        pytest.param(of_tunnel(), ["network:a.org:80"], id="another-client"),
    ],
)
def test_an_answer_that_is_not_the_proxys_is_left_alone(error: Exception, grants: list[str]) -> None:
    assert hint_for(error, level="full", grants=grants) == {}


def test_a_network_that_is_not_walled_off_is_not_spoken_of() -> None:
    assert hint_for(within("socket", "connect", refused(errno.EACCES)), level="landlock-partial", grants=[]) == {}


@pytest.mark.parametrize("call", ["os.fork()", "os.execv('/bin/ls', [])", "os.posix_spawn('/bin/ls', [], {})", "pty.fork()"])
def test_a_builtin_that_starts_a_process_is_known_by_its_line(call: str, tmp_path: Path) -> None:
    error = raised(f"raise error  # as {call} does", at=tmp_path / "main.py", error=refused(errno.EPERM))
    assert hinted(error) == "subprocess = true"


def test_multiprocessing_is_known_by_its_module() -> None:
    assert hinted(within("multiprocessing.popen_fork", "_launch", refused(errno.EPERM))) == "subprocess = true"


class ReasonedError(Exception):
    def __init__(self, reason: BaseException) -> None:
        super().__init__("it did not work")
        self.reason = reason


def test_what_an_error_was_raised_from_is_looked_at() -> None:
    line = 'filesystem = { read = ["/srv/models/a.bin"] }'
    assert hinted(raised("raise ValueError from error", error=MISSING)) == line
    assert hinted(raised("try: raise error\nexcept OSError: raise ValueError", error=refused(errno.ENOENT, "/srv/models/a.bin"))) == line
    assert hinted(ReasonedError(MISSING)) == line
    assert hinted(ExceptionGroup("two", [ValueError(), MISSING])) == line
    assert (
        hinted(raised("try: raise error\nexcept OSError: raise ValueError from None", error=refused(errno.ENOENT, "/srv/models/a.bin")))
        == ""
    )


def test_errors_that_point_at_each_other_are_looked_at_for_a_while() -> None:
    first, second = ReasonedError(MISSING), ReasonedError(MISSING)
    first.reason, second.reason = second, first
    assert hinted(first) == ""


def test_an_error_that_fails_when_it_is_looked_at_is_left_alone() -> None:
    class NastyError(ValueError):
        @property
        def reason(self) -> Any:
            raise SystemError("no")

    assert hint_for(NastyError(), level="full", grants=[]) == {}


def test_names_that_are_bytes_are_read() -> None:
    assert hinted(OSError(errno.ENOENT, "no", b"/srv/models/\xff")) == 'filesystem = { read = ["/srv/models/\\\\xff"] }'


def test_hints_are_not_loaded_before_an_error_is_told() -> None:
    code = "import sys, annexe_sdk.runner, annexe_sdk.aio, annexe_sdk.streams; print('annexe_sdk.hints' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"
