"""bubblewrap's command line, without bubblewrap."""

from __future__ import annotations

from annexe.sandbox.bubblewrap import Bubblewrap, arguments
from annexe.sandbox.view import Access, Place

LINKS = (("/lib", "usr/lib"), ("/lib64", "usr/lib64"))


def command(
    *places: Place, options: frozenset[str] = frozenset({"--size", "--disable-userns", "--perms"}), proc: bool = True, block: int | None = 8
) -> list[str]:
    found = Bubblewrap(path="/usr/bin/bwrap", options=options, mounts_proc=proc, links=LINKS)
    return arguments(found, places, tmp_bytes=4096, scratch="/cache/s", info_fd=7, block_fd=block)


def pairs(given: list[str], option: str) -> list[tuple[str, str]]:
    return [(given[at + 1], given[at + 2]) for at, word in enumerate(given) if word == option]


def test_arguments_take_every_namespace_and_every_capability_away() -> None:
    given = command()
    assert {f"--unshare-{name}" for name in ("user", "pid", "net", "ipc", "uts", "cgroup")} <= set(given)
    assert given[given.index("--cap-drop") + 1] == "ALL"
    assert {"--die-with-parent", "--disable-userns"} <= set(given)
    assert "--share-net" not in given


def test_arguments_end_by_making_the_root_read_only() -> None:
    assert command(Place("/srv", Access.WRITE))[-5:] == ["--remount-ro", "/dev", "--remount-ro", "/", "--"]


def test_arguments_cap_every_file_system_in_memory() -> None:
    given = command()
    assert all(given[at - 2] == "--size" for at, word in enumerate(given) if word == "--tmpfs")
    assert given[given.index("/tmp") - 2] == "4096"


def test_arguments_mount_places_with_their_access() -> None:
    given = command(Place("/opt/p", Access.READ), Place("/opt/p/data", Access.WRITE), Place("/opt/x", Access.RUN))
    assert pairs(given, "--ro-bind-try")[-2:] == [("/opt/p", "/opt/p"), ("/opt/x", "/opt/x")]
    assert pairs(given, "--bind") == [("/opt/p/data", "/opt/p/data")]
    assert given.index("/opt/p") < given.index("/opt/p/data")


def test_arguments_do_not_mount_what_a_mount_of_the_same_kind_holds_already() -> None:
    given = command(
        Place("/srv", Access.WRITE), Place("/srv/out", Access.WRITE), Place("/srv/code", Access.READ), Place("/srv/code/bin/x", Access.RUN)
    )
    assert pairs(given, "--bind") == [("/srv", "/srv")]
    assert pairs(given, "--ro-bind-try") == [("/srv/code", "/srv/code")]


def test_arguments_mount_a_granted_device_as_one() -> None:
    given = command(Place("/dev/nvidia0", Access.USE))
    assert pairs(given, "--dev-bind-try") == [("/dev/nvidia0", "/dev/nvidia0")]
    assert given.index("/dev/nvidia0") > given.index("/dev/null")


def test_arguments_follow_the_links_that_the_root_has() -> None:
    given = command(
        Place("/usr/lib", Access.READ), Place("/lib", Access.READ), Place("/lib/ld.so", Access.RUN), Place("/lib64/ld", Access.RUN)
    )
    assert ("usr/lib", "/lib") in pairs(given, "--symlink")
    assert pairs(given, "--ro-bind-try") == [("/usr/lib", "/usr/lib"), ("/usr/lib64/ld", "/usr/lib64/ld")]


def test_arguments_protect_the_kernels_settings_where_proc_is_mounted() -> None:
    assert ("/proc/sys", "/proc/sys") in pairs(command(), "--ro-bind")
    assert "/proc" not in command(proc=False)
    assert "/dev/fd" not in command(proc=False)


def test_arguments_for_an_older_bubblewrap_use_the_folder_on_disk() -> None:
    given = command(options=frozenset())
    assert "--size" not in given
    assert "--disable-userns" not in given
    assert ("/cache/s", "/tmp") in pairs(given, "--bind")
    assert Bubblewrap(path="b", options=frozenset()).private == ("/tmp",)
    assert Bubblewrap(path="b").private == ("/tmp", "/dev/shm")


def test_arguments_make_folders_above_a_place_in_tmp_read_only_each_once() -> None:
    places = (
        Place("/tmp/a/b/w", Access.READ),
        Place("/tmp/a/c", Access.WRITE),
        Place("/tmp/a/c/x/y", Access.READ),
        Place("/srv/a/b", Access.READ),
    )
    found = Bubblewrap(path="/usr/bin/bwrap")
    given = arguments(found, places, tmp_bytes=1, scratch="/s", info_fd=7, block_fd=None, in_memory={"/tmp/d/e": 4096})
    at = [at for at, word in enumerate(given) if word == "--dir"]
    assert [(given[one - 2 : one], given[one + 1]) for one in at] == [
        (["--perms", "0555"], folder) for folder in ("/tmp/a", "/tmp/a/b", "/tmp/d")
    ]
    assert at[1] < given.index("/tmp/a/b/w")
    assert at[2] < given.index("/tmp/d/e")


def test_arguments_for_a_bubblewrap_that_knows_no_modes_leave_them() -> None:
    assert "--dir" not in command(Place("/tmp/a/b", Access.READ), options=frozenset({"--size", "--disable-userns"}))


def test_arguments_make_further_folders_in_memory_each_of_its_size() -> None:
    found = Bubblewrap(path="/usr/bin/bwrap")
    given = arguments(found, (), tmp_bytes=1, scratch="/s", info_fd=7, block_fd=None, in_memory={"/data/a": 4096})
    at = given.index("/data/a")
    assert given[at - 3 : at] == ["--size", "4096", "--tmpfs"]
    assert at < given.index("--remount-ro")


def test_arguments_wait_only_where_there_is_something_to_wait_for() -> None:
    assert "--block-fd" not in command(block=None)
    assert command()[command().index("--block-fd") + 1] == "8"
