"""A token is good for once, for a short time, and for one plugin; what is shown wrongly is good for nothing."""

from __future__ import annotations

import hashlib

import pytest

from annexe.errors import HostError, PluginBusyError
from annexe.host.invitations import LINE_BYTES, MAX_INVITATIONS, VALID_S, Invitations


def line(token: str) -> bytes:
    return f"annexe-attach 1 {token}\n".encode()


def test_a_token_is_what_its_plugin_is_known_by_and_only_its_hash_is_kept() -> None:
    invitations = Invitations()
    (one, first), (two, second) = (invitations.issue(plugin, now=0.0) for plugin in ("a", "b"))
    assert len(line(one)) == LINE_BYTES
    assert first.digest == hashlib.sha3_256(one.encode()).digest()
    assert invitations.redeem(line(two), now=1.0) is second
    assert invitations.redeem(line(one), now=1.0) is first


@pytest.mark.parametrize("now", [pytest.param(VALID_S, id="at its end"), pytest.param(VALID_S + 1, id="later")])
def test_a_token_that_is_too_old_is_refused_and_gone(now: float) -> None:
    invitations = Invitations()
    token, _ = invitations.issue("a", now=0.0)
    with pytest.raises(HostError, match="older than 300 s"):
        invitations.redeem(line(token), now=now)
    with pytest.raises(HostError):
        invitations.redeem(line(token), now=0.0)


def test_a_token_is_used_up_even_by_a_line_of_another_form() -> None:
    invitations = Invitations()
    token, _ = invitations.issue("a", now=0.0)
    with pytest.raises(HostError):
        invitations.redeem(b"ANNEXE-ATTACH 1 " + line(token)[16:], now=1.0)
    with pytest.raises(HostError):
        invitations.redeem(line(token), now=1.0)


def test_what_was_withdrawn_is_good_no_more() -> None:
    invitations = Invitations()
    (one, first), (two, _) = (invitations.issue(plugin, now=0.0) for plugin in ("a", "b"))
    invitations.withdraw(first)
    invitations.withdraw(first)
    with pytest.raises(HostError):
        invitations.redeem(line(one), now=1.0)
    invitations.clear()
    with pytest.raises(HostError):
        invitations.redeem(line(two), now=1.0)


def test_few_are_open_at_once_and_old_ones_do_not_count() -> None:
    invitations = Invitations()
    for _ in range(MAX_INVITATIONS):
        invitations.issue("a", now=0.0)
    with pytest.raises(PluginBusyError):
        invitations.issue("a", now=1.0)
    invitations.issue("a", now=VALID_S)
