"""The policy file."""

from __future__ import annotations

import pytest

from annexe.errors import ConfigInvalidError
from annexe.manifest.model import Manifest, Permissions, Runtime
from annexe.trust.grants import decide
from annexe.trust.policy import MAX_POLICY_BYTES, Policy, PolicyEntry, parse_policy

DIGEST = "sha3-512:" + "a" * 128
OTHER = "sha3-512:" + "b" * 128
TEXT = f"""
policy-version = 1
[plugins."*"]
rights = ["kv"]
[plugins.demo]
rights = ["cap:orders", "network:*"]
versions = ">=1,<2"
[plugins.pinned]
rights = ["subprocess"]
digest = "{DIGEST}"
""".encode()
ASKED = Permissions(kv_quota_bytes=1, capabilities=("orders",), network=("a.example:1", "b.example:2"))


def missing(policy: Policy, plugin: str, permissions: Permissions, *, version: str = "1.0.0", digest: str = DIGEST) -> frozenset[str]:
    manifest = Manifest(id=plugin, version=version, runtime=Runtime(kind="python", entry="x"), permissions=permissions)
    return decide(manifest, digest=digest, folder="/x", grants=policy.grants_for(manifest, digest)).missing


def problems_of(text: bytes) -> list[str]:
    with pytest.raises(ConfigInvalidError) as caught:
        parse_policy(text, source="policy.toml")
    assert str(caught.value).startswith("policy.toml is not a valid policy:\n  - ")
    assert caught.value.data["source"] == "policy.toml"
    problems = caught.value.data["problems"]
    assert isinstance(problems, list)
    return problems


def test_policy_is_parsed() -> None:
    assert parse_policy(TEXT, source="x") == Policy(
        {
            "*": PolicyEntry(rights=frozenset({"kv"})),
            "demo": PolicyEntry(rights=frozenset({"cap:orders", "network:*"}), versions=">=1,<2"),
            "pinned": PolicyEntry(rights=frozenset({"subprocess"}), digest=DIGEST),
        }
    )


def test_policy_allows_what_stands_for_the_plugin_and_for_every_one() -> None:
    policy = parse_policy(TEXT, source="x")
    assert missing(policy, "demo", ASKED) == frozenset()
    assert missing(policy, "demo", ASKED, digest=OTHER) == frozenset()
    assert missing(policy, "other", ASKED) == {"cap:orders", "network:a.example:1", "network:b.example:2"}
    assert missing(policy, "demo", Permissions(subprocess=True, capabilities=("refunds",))) == {"subprocess", "cap:refunds"}


def test_policy_entry_holds_for_its_versions_and_content_alone() -> None:
    policy = parse_policy(TEXT, source="x")
    assert "cap:orders" in missing(policy, "demo", ASKED, version="2.0.0")
    assert missing(policy, "pinned", Permissions(subprocess=True)) == frozenset()
    assert missing(policy, "pinned", Permissions(subprocess=True), digest=OTHER) == {"subprocess"}


def test_policy_that_is_empty_denies_all() -> None:
    assert missing(parse_policy(b"policy-version = 1", source="x"), "demo", ASKED) == ASKED.as_set()


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        (b"", ["line 1: policy-version: expected a whole number from 1 to 1, got nothing: the key is required"]),
        (
            b"policy-version = 2\n[plugin.demo]",
            [
                "line 1: policy-version: expected a whole number from 1 to 1, got 2",
                "line 2: plugin: expected 'plugins', got an unknown key",
            ],
        ),
        (
            b"policy-version = 1\n[plugins.Demo]\n[plugins.demo]\nright = ['kv']\nversions = '1'\ndigest = 'x'",
            [
                "line 2: plugins.Demo: expected a plugin id, or '*' for every plugin, got 'Demo'",
                "line 4: plugins.demo.right: expected 'rights', got an unknown key",
                "line 5: plugins.demo.versions: expected a version range such as '>=1,<2', got '1'",
                "line 6: plugins.demo.digest: expected a digest as 'sha3-512:' and 128 hex digits, got 'x'",
            ],
        ),
        (
            b"policy-version = 1\n[plugins.demo]\nrights = ['kv', 'kv:*']",
            ["line 3: plugins.demo.rights[1]: expected 'kv' without a name, got 'kv:*'"],
        ),
        (b"#" * (MAX_POLICY_BYTES + 1), [f"expected at most {MAX_POLICY_BYTES} bytes, got more"]),
        (b"\n\xff", ["line 2: expected UTF-8, got byte 0xff"]),
    ],
)
def test_policy_that_does_not_fit_names_every_problem(text: bytes, problems: list[str]) -> None:
    assert problems_of(text) == problems
