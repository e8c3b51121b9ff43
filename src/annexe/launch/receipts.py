"""The layers of level ``limits``: what the stub and the spawner put in force for one launch. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from annexe.launch.strategy import LaunchRequest
from annexe.sandbox import IsolationLevel, Layer, Receipt, receipt_for

__all__ = ["receipt_of_limits"]

_LayerState = Literal["on", "off", "soft"]

_MIB = 1024 * 1024


def receipt_of_limits(
    request: LaunchRequest, *, python: str, uid: int, own_uid: bool, is_linux: bool, can_tag: bool, notes: tuple[str, ...]
) -> Receipt:
    """Return the receipt of one launch.

    Args:
        request: What was asked for.
        python: Interpreter that ran the stub, and the plugin if it is a Python one.
        uid: User it runs as.
        own_uid: Nobody else is that user.
        is_linux: Otherwise macOS, where less can be done.
        can_tag: Its descendants can be recognised.
        notes: What else an operator should know.
    """
    profile = request.profile
    linux_only: _LayerState = "on" if is_linux else "off"
    layers = [
        Layer("environment", "on", "from an allow-list"),
        Layer("descriptors", "on", "the channel and standard streams only"),
        Layer("own user", "on" if own_uid else "off", str(uid) if own_uid else "it takes a host that runs as root"),
        Layer("no new privileges", linux_only),
        Layer("end with the host", linux_only, "by the kernel" if is_linux else "it is told only by the end of the channel"),
        Layer("memory", "soft" if is_linux else "off", f"{profile.memory_bytes // _MIB} MiB private to each process"),
        Layer("open files", "on", str(profile.open_files)),
        Layer("file size", "on", f"{profile.file_bytes // _MIB} MiB each"),
        Layer("tasks", "on" if own_uid else "off", f"{profile.tasks} processes and threads" if own_uid else "counted per user"),
        Layer("core dumps", "on", "none are written"),
        Layer("niceness", "on", f"+{profile.nice}"),
        Layer("tree kill", "on" if own_uid else "soft" if can_tag else "off", _tree_kill(own_uid=own_uid, can_tag=can_tag)),
        Layer("python", "on", python),
    ]
    receipt = receipt_for(IsolationLevel.LIMITS, uid=uid, own_uid=own_uid, layers=tuple(layers))
    return replace(receipt, notes=(*receipt.notes, *notes))


def _tree_kill(*, own_uid: bool, can_tag: bool) -> str:
    if own_uid:
        return "everything of its user"
    return "its process group, and descendants by the tag they inherit" if can_tag else "its process group only"
