"""Who may do what."""

from __future__ import annotations

import pytest

from annexe.errors import PermissionDeniedError
from annexe.manifest.model import Manifest, Permissions, Runtime
from annexe.trust.grants import Grant, decide, denial, grant_as_asked

DIGEST = "sha3-512:" + "a" * 128
OTHER = "sha3-512:" + "b" * 128
FOLDER = "/srv/plugins/demo"


def asking(*, version: str = "1.2.0", **permissions: object) -> Manifest:
    asked = Permissions(**permissions)  # type: ignore[arg-type]
    return Manifest(id="demo", version=version, runtime=Runtime(kind="python", entry="demo"), permissions=asked)


ASKING = asking(kv_quota_bytes=1, capabilities=("orders",))


def grant(*rights: str, digest: str | None = DIGEST, folder: str | None = None, version_range: str = "", plugin: str = "demo") -> Grant:
    return Grant(plugin=plugin, rights=frozenset(rights), digest=digest, folder=folder, version_range=version_range)


def test_decide_without_grants_denies_all() -> None:
    decision = decide(ASKING, digest=DIGEST, folder=FOLDER, grants=[])
    assert decision.granted == frozenset()
    assert decision.missing == {"kv", "cap:orders"}
    assert decision.is_blocked
    assert decision.problem == "it asks for cap:orders, kv, which nobody has granted"


def test_decide_plugin_that_asks_for_nothing_is_not_blocked() -> None:
    decision = decide(asking(), digest=DIGEST, folder=FOLDER, grants=[])
    assert not decision.is_blocked
    assert decision.problem == ""


def test_decide_adds_up_grants_and_gives_nothing_that_is_not_asked_for() -> None:
    grants = [grant("kv", "subprocess"), grant("cap:orders", "network:a.example:1")]
    decision = decide(ASKING, digest=DIGEST, folder=FOLDER, grants=grants)
    assert decision.granted == {"kv", "cap:orders"}
    assert decision.missing == frozenset()
    assert decision.lapsed == ()


def test_decide_missing_right_blocks_though_others_are_granted() -> None:
    decision = decide(ASKING, digest=DIGEST, folder=FOLDER, grants=[grant("kv")])
    assert (decision.granted, decision.missing) == (frozenset({"kv"}), frozenset({"cap:orders"}))
    assert decision.is_blocked


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (grant("kv", "cap:orders", digest=OTHER), "its content has changed since"),
        (grant("kv", "cap:orders", version_range=">=2"), "it was granted for versions >=2, this is 1.2.0"),
        (grant("kv", "cap:orders", digest=None, folder="/srv/other"), "it was granted in the folder /srv/other"),
        (grant("kv", digest=None, folder=FOLDER), "it asks for cap:orders, which it was not granted"),
        (
            grant("kv", "subprocess", digest=None, folder=FOLDER),
            "it asks for cap:orders, which it was not granted, and it was granted subprocess, for which it asks no longer",
        ),
        (
            grant("kv", "cap:orders", "subprocess", digest=None, folder=FOLDER),
            "it was granted subprocess, for which it asks no longer",
        ),
        (grant("kv", "cap:orders", digest=None, folder=FOLDER, version_range="<1"), "it was granted for versions <1, this is 1.2.0"),
    ],
)
def test_decide_grant_that_does_not_hold_gives_nothing_and_says_why(bad: Grant, reason: str) -> None:
    decision = decide(ASKING, digest=DIGEST, folder=FOLDER, grants=[bad])
    assert decision.granted == frozenset()
    assert decision.missing == {"kv", "cap:orders"}
    assert decision.lapsed == (reason,)
    if "it asks for" not in reason:
        assert decision.problem == f"it asks for cap:orders, kv; its grant holds no longer: {reason}"
        assert decision.had == frozenset()
    assert decision.was_to_content is (bad.digest is not None)


def test_decide_plugin_that_asks_for_more_than_its_folder_was_granted_lacks_that_alone() -> None:
    decision = decide(ASKING, digest=DIGEST, folder=FOLDER, grants=[grant("kv", digest=None, folder=FOLDER)])
    assert (decision.granted, decision.had, decision.lacking) == (frozenset(), frozenset({"kv"}), frozenset({"cap:orders"}))
    assert decision.is_blocked
    assert decision.problem == "it asks for cap:orders, which nobody has granted; granted was: kv"


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(grant("kv", digest=None, folder="/srv/other"), id="folder"),
        pytest.param(grant("kv", digest=None, folder=FOLDER, version_range=">=2"), id="version"),
        pytest.param(grant("kv", digest=OTHER), id="content"),
    ],
)
def test_decide_grant_that_lapsed_otherwise_counts_for_nothing_it_had(other: Grant) -> None:
    assert decide(ASKING, digest=DIGEST, folder=FOLDER, grants=[other]).had == frozenset()


def test_decide_grant_of_another_plugin_is_passed_over() -> None:
    decision = decide(ASKING, digest=DIGEST, folder=FOLDER, grants=[grant("kv", "cap:orders", plugin="demo2")])
    assert decision.missing == {"kv", "cap:orders"}
    assert decision.lapsed == ()


def test_decide_folder_grant_holds_while_code_changes() -> None:
    approved = grant_as_asked(ASKING, folder=FOLDER, note="development")
    for digest in (DIGEST, OTHER):
        assert not decide(ASKING, digest=digest, folder=FOLDER, grants=[approved]).is_blocked


def test_decide_folder_grant_lapses_when_the_manifest_asks_for_more() -> None:
    approved = grant_as_asked(ASKING, folder=FOLDER, note="development")
    more = asking(kv_quota_bytes=1, capabilities=("orders",), subprocess=True)
    assert decide(more, digest=DIGEST, folder=FOLDER, grants=[approved]).missing == more.permission_set()


def test_decide_pre_release_needs_its_own_grant() -> None:
    beta = asking(version="1.3.0-beta.1", kv_quota_bytes=1)
    assert decide(beta, digest=DIGEST, folder=FOLDER, grants=[grant("kv", version_range=">=1")]).is_blocked
    assert not decide(beta, digest=DIGEST, folder=FOLDER, grants=[grant("kv", version_range="==1.3.0-beta.1")]).is_blocked


@pytest.mark.parametrize(("digest", "folder"), [(None, None), ("", ""), (DIGEST, FOLDER)])
def test_grant_of_a_mere_name_is_refused(digest: str | None, folder: str | None) -> None:
    with pytest.raises(ValueError, match="bound to a digest or to a folder"):
        grant("kv", digest=digest, folder=folder)


def test_denial_tells_author_and_operator_what_to_do() -> None:
    error = denial("demo", "cap:refunds", ASKING, command="annexe grant demo")
    assert isinstance(error, PermissionDeniedError)
    assert error.plugin == "demo"
    assert error.data == {
        "permission": "cap:refunds",
        "manifest_line": 'capabilities = ["orders", "refunds"]',
        "command": "annexe grant demo",
    }


def test_denial_of_what_is_asked_for_already_needs_no_line() -> None:
    assert denial("demo", "kv", ASKING, command="annexe grant demo").data["manifest_line"] == ""
