"""Our Landlock rules beside those of a library that others wrote: the same words, and the same refusals of the kernel."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import landlockpy
import pytest

from annexe.launch.offer import landlock_abi
from annexe.sandbox.landlock import ruleset
from annexe.sandbox.view import Access, Place

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.both_users,
    pytest.mark.skipif(landlock_abi() == 0, reason="this kernel has no Landlock"),
]

TRY = """
import json, os, sys
def tried(what):
    try:
        what()
        return "worked"
    except OSError as error:
        return os.strerror(error.errno)
folder = sys.argv[1]
print(json.dumps({
    "read": tried(lambda: open(folder + "/readable/file").read()),
    "list": tried(lambda: os.listdir(folder + "/readable")),
    "write": tried(lambda: open(folder + "/readable/file", "w")),
    "run": tried(lambda: os.posix_spawn(folder + "/readable/true", ["true"], {}) and None),
    "run allowed": tried(lambda: os.posix_spawn(folder + "/runnable/true", ["true"], {}) and None),
    "write allowed": tried(lambda: open(folder + "/writable/new", "w")),
    "move": tried(lambda: os.replace(folder + "/writable/new", folder + "/writable/sub/new")),
    "mkdir": tried(lambda: os.mkdir(folder + "/writable/made")),
    "link": tried(lambda: os.symlink("x", folder + "/writable/link")),
    "pipe": tried(lambda: os.mkfifo(folder + "/writable/pipe")),
    "other": tried(lambda: os.listdir(folder)),
    "passwd": tried(lambda: open("/etc/passwd").read()),
}))
"""
OURS = """
from annexe.sandbox import stub
from annexe.sandbox.landlock import ruleset
from annexe.sandbox.view import Access, Place
import ctypes, os
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
places = [Place(folder + "/readable", Access.READ), Place(folder + "/runnable", Access.RUN), Place("/usr", Access.READ)]
places += [Place("/lib64", Access.RUN), Place("/lib", Access.RUN)]
stub._restrict_files(ruleset({abi}, places, private=[folder + "/writable"]), 0)
"""
THEIRS = """
import landlockpy
from landlockpy import AccessFS as A
read, run = A.READ_FILE | A.READ_DIR, A.READ_FILE | A.READ_DIR | A.EXECUTE
write = read | A.WRITE_FILE | A.REMOVE_DIR | A.REMOVE_FILE | A.MAKE_DIR | A.MAKE_REG | A.REFER | A.TRUNCATE
rules = landlockpy.Ruleset(handled_fs=landlockpy.fs_for_abi({abi}))
for path, access in (("readable", read), ("runnable", run), ("writable", write)):
    rules.allow_path(f"{folder}/{path}", access)
for path, access in (("/usr", read), ("/lib64", run), ("/lib", run)):
    rules.allow_path(path, access)
rules.restrict()
"""


def refusals(restrict: str, folder: Path) -> dict[str, str]:
    code = f"import json, os, sys\nfolder = sys.argv[1]\n{restrict}\n{TRY}"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told: dict[str, str] = json.loads(done.stdout)
    return told


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("readable", "runnable", "writable/sub"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "readable" / "file").write_text("x")
    for name in ("readable", "runnable"):
        (tmp_path / name / "true").write_bytes(Path("/bin/true").read_bytes())
        (tmp_path / name / "true").chmod(0o755)
    return tmp_path


def test_words_are_those_of_the_library() -> None:
    for abi in range(1, 8):
        attr = ruleset(abi, (), private=())["attr"]
        fields = [int.from_bytes(attr[at : at + 8], "little") for at in range(0, len(attr), 8)]
        expected = [int(landlockpy.fs_for_abi(abi)), int(landlockpy.net_for_abi(abi)), int(landlockpy.scope_for_abi(abi))]
        assert fields == expected[: len(fields)]
        assert not any(expected[len(fields) :])


def test_rights_of_a_place_are_those_of_the_library() -> None:
    a = landlockpy.AccessFS
    rules = dict(ruleset(7, [Place("/r", Access.READ), Place("/x", Access.RUN), Place("/w", Access.WRITE)], private=())["rules"])
    assert rules["/r"] == a.READ_FILE | a.READ_DIR
    assert rules["/x"] == a.READ_FILE | a.READ_DIR | a.EXECUTE
    written = a.WRITE_FILE | a.REMOVE_DIR | a.REMOVE_FILE | a.MAKE_DIR | a.MAKE_REG | a.REFER | a.TRUNCATE
    assert rules["/w"] == a.READ_FILE | a.READ_DIR | written


def test_kernel_refuses_under_our_rules_what_it_refuses_under_the_librarys(folder: Path) -> None:
    ours = refusals(OURS.replace("{abi}", str(landlock_abi())), folder)
    for made in ("new", "sub/new"):
        (folder / "writable" / made).unlink(missing_ok=True)
    (folder / "writable" / "made").rmdir()
    theirs = refusals(THEIRS.replace("{abi}", str(landlock_abi())), folder)
    assert ours == theirs
    assert {name for name, what in ours.items() if what == "worked"} == {"read", "list", "run allowed", "write allowed", "move", "mkdir"}
