"""What a plugin sees, as a list."""

from __future__ import annotations

from annexe.sandbox import Profile
from annexe.sandbox.view import Access, Place, places_for


def view(profile: Profile | None = None, **changes: object) -> dict[str, Access]:
    fields = {"folder": "/plugins/a", "runtime": "/cache/r", "python": "/usr/bin/python3", "prefix": "/usr"}
    places = places_for(profile or Profile(), **(fields | changes))  # type: ignore[arg-type]
    assert len({place.path for place in places}) == len(places)
    return {place.path: place.access for place in places}


def test_places_of_a_plugin_without_rights_can_only_be_read() -> None:
    places = view(packages=["/plugins/a/.venv/lib"])
    assert {"/plugins/a", "/plugins/a/.venv/lib", "/cache/r", "/usr/bin/python3", "/usr/lib"} <= set(places)
    assert set(places.values()) == {Access.READ}
    assert not {"/usr", "/", "/etc", "/home", "/tmp", "/root", "/var"} & set(places)


def test_places_of_a_plugin_with_network_have_certificates() -> None:
    assert "/etc/ssl/certs" in view(Profile(network=True))
    assert "/etc/ssl/certs" not in view()


def test_places_of_a_program_can_be_executed_and_nothing_else() -> None:
    places = view(executables=("/plugins/a/run",))
    runnable = {path for path, access in places.items() if access is Access.RUN}
    assert "/plugins/a/run" in runnable
    assert runnable - {"/plugins/a/run"} == {path for path in runnable if path.startswith("/lib") and "/ld-" in path}


def test_places_with_subprocess_can_execute_the_system_and_the_plugin_itself() -> None:
    places = view(Profile(subprocess=True))
    assert places["/usr"] is places["/plugins/a"] is places["/usr/bin/python3"] is Access.RUN
    assert places["/cache/r"] is Access.READ


def test_places_that_were_granted_are_there_with_the_wider_access() -> None:
    places = view(Profile(read=("/srv/models", "/srv/out"), write=("/srv/out",), data="/data/a"))
    assert (places["/srv/models"], places["/srv/out"], places["/data/a"]) == (Access.READ, Access.WRITE, Access.WRITE)
    assert "/data/a" not in view(Profile(data="/data/a", data_in_memory_bytes=4096))


def test_places_of_granted_devices_can_be_used_and_others_are_not_there() -> None:
    assert view(Profile(devices=("/dev/nvidia0",)))["/dev/nvidia0"] is Access.USE
    assert not any(path.startswith("/dev") for path in view())


def test_places_come_with_folders_before_what_is_in_them() -> None:
    places = places_for(Profile(write=("/srv",), read=("/srv-a", "/srv/x")), folder="/srv/x/y", runtime="/r", python="/p", prefix="/q")
    paths = [place.path for place in places]
    assert paths.index("/srv") < paths.index("/srv/x") < paths.index("/srv/x/y")
    assert Place("/srv/x", Access.READ) in places
