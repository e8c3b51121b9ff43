"""What a plugin was refused lately, from the events that tell of it.

Pure. Refusals of the host are facts. Those of the sandbox the host does not see: they are what a plugin's SDK made of an error, text that a
plugin may write as it likes, told as such.

* What it has been granted since is left out.
* Lines for the manifest are for all refusals at once: each key is in one line, beside what is asked for already.

Source: feature PE4; docs/reference/permissions.md, "When a right is missing".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from annexe.manifest.model import Permissions
from annexe.manifest.rights import manifest_lines, rights_in
from annexe.record import EventKind
from annexe.record.entry import rfc3339
from annexe.storage.events import StoredEvent

__all__ = ["TOLD_IN", "denials"]

TOLD_IN = (EventKind.CALL_FAILED, EventKind.HOOK_FAILED, EventKind.HOOK_SKIPPED, EventKind.LAUNCH_FAILED)
"""Events in which a plugin's SDK may have told what the sandbox refused."""

_MAX_DENIALS = 20
_ASK = "add to plugin.toml under [permissions]: "
_AT = " (at "  # where it was raised follows what the SDK's own errors say
_HOSTS_OWN = "; then grant it with: "
_SDKS_OWN = "; then have it granted with: "


def denials(
    events: Iterable[StoredEvent],
    *,
    asked: Permissions | None = None,
    granted: frozenset[str] = frozenset(),
    since: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Return what was refused lately, each right once, the latest first.

    Args:
        events: Of one plugin, in any order; those that tell of no refusal are passed over.
        asked: What its manifest asks for; None: nobody knows.
        granted: Rights that it has now.
        since: When it was granted them, as far as that is known: seconds since 1970.
    """
    rows: dict[tuple[frozenset[str], str], dict[str, Any]] = {}
    wanted: dict[tuple[frozenset[str], str], frozenset[str]] = {}
    has = asked.as_set() if asked is not None else frozenset()
    for event in sorted(events, key=lambda event: event.time, reverse=True):
        is_hosts = event.kind == EventKind.PERMISSION_DENIED
        line = str(event.facts.get("manifest_line") or "") if is_hosts else _told_line(event.reason)
        named = str(event.facts.get("permission") or "") if is_hosts else ""
        if not is_hosts and not line:
            continue
        rights = frozenset({named} if named else rights_in(line))
        if rights and all(_gives(granted, right) for right in rights) and _is_before(event.time, rights, since or {}, asked_then=not line):
            continue
        new = rights - has
        right = named or (next(iter(new)) if len(new) == 1 else "")
        key = new or rights, "" if new or rights else line
        wanted[key] = new if line else frozenset()
        row = rows.setdefault(
            key,
            {
                "time": rfc3339(event.time),
                "by": "host" if is_hosts else "sandbox",
                "right": right,
                "manifest_line": line,
                "reason": event.reason,
                "count": 0,
            },
        )
        row["count"] += 1 + int(event.facts.get("suppressed_count") or 0)
    return _with_joint_lines(list(rows.items())[:_MAX_DENIALS], wanted, asked)


def _with_joint_lines(
    rows: list[tuple[tuple[frozenset[str], str], dict[str, Any]]],
    wanted: Mapping[tuple[frozenset[str], str], frozenset[str]],
    asked: Permissions | None,
) -> list[dict[str, Any]]:
    """Return the rows, with one line for each key of the manifest instead of one for each refusal."""
    if asked is not None:
        lines = manifest_lines(frozenset().union(*(wanted[key] for key, _ in rows)), asked)
        for key, row in rows:
            own = {lines[right] for right in wanted[key]}
            if own or key[0]:
                row["manifest_line"] = "\n".join(sorted(own))
    return [row for _, row in rows]


def _gives(granted: frozenset[str], right: str) -> bool:
    """Return whether rights give what this one names: a folder's gives what is in it, and who may write there may read, too."""
    kind, _, path = right.partition(":")
    if right in granted or not path.startswith("/"):
        return right in granted
    kinds = {kind, "filesystem.write"}
    return any(f"{other}:{folder}" in granted for other in kinds for folder in (path, *map(str, PurePosixPath(path).parents)))


def _is_before(at: float, rights: Iterable[str], since: Mapping[str, float], *, asked_then: bool) -> bool:
    """Return whether rights that a plugin has were refused before it had them; one that was not asked for then was."""
    return not asked_then or all(at < since.get(right, -math.inf) for right in rights)


def _told_line(reason: str) -> str:
    """Return the line in a text of the SDK's; empty when there is none, or the host told it already and a plugin let its error pass."""
    line = reason.partition(_ASK)[2].partition(_AT)[0].partition(_SDKS_OWN)[0]
    return "" if _HOSTS_OWN in line else line
