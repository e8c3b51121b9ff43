"""The receipt: what isolation a plugin really got, as values and as text.

Pure. Whoever launches says which walls stand and what was switched on; the words about what that is worth stand in ``enforcement`` and
here, so that no launcher can say more than is true.

Source: feature IS9; docs/explanation/sandbox.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

from annexe.sandbox.enforcement import Enforcement, enforcement
from annexe.sandbox.levels import IsolationLevel, Walls

__all__ = ["Lack", "Layer", "LayerState", "Receipt", "TreeKill", "receipt_for"]

TreeKill = Literal["hard", "soft", "none"]
LayerState = Literal["on", "off", "soft"]

_IN_PROCESS_NOTE = "It runs inside the host's own process: it can do all that the host can, and its crash is the host's."
_BY_HAND_NOTE = (
    "It was started by hand, and can do all that its user can; what it asks of the host is checked as ever. The host does not end it."
)
_SAME_UID_NOTES = (
    "It runs as the host's own user: it can read and change all that this user can, the host's state directory and the token of its "
    "control socket included, so it can command the host.",
    "It can signal and stop the host and other plugins, and trace them where the kernel lets a user trace its own.",
)
_OWN_UID_NOTE = "It runs as a user of its own: of the files of others it can read and change what every user of this machine can."
_NO_WALLS_NOTE = "It can open network connections, start programs and use every system call: no file, network or syscall wall stands."
_NO_FILTER_NOTE = "It can use every system call: no filter stands."
_ONE_WALL_NOTE = "One wall: without Landlock, a hole in the filter of system calls or in the namespaces is a hole in the sandbox."
_SHARED_LIST_NOTE = "It shares the list of processes and the network's names with the host."
_SIGNALS_NOTE = "It can signal processes of its user, the host included: this kernel's Landlock does not keep signals in."
_SOFT_KILL_NOTE = "Stopping it and its children is soft: a child that hides on purpose can outlive it."
_NO_LIMITS_NOTE = "Nothing limits the memory, processes or files it takes."
_NO_FILE_LIMITS_NOTE = "Nothing limits the files it opens, or their size."
_SOFT_MEMORY_NOTE = "Its memory limit is soft: no control group keeps it."
_NO_CPU_NOTE = "It can take every processor: no control group keeps its share."
_SHARED_KERNEL_NOTE = "The kernel is shared: its bugs, and what processor caches and timing tell, are outside every level."
_VERDICTS = {
    IsolationLevel.FULL: "For untrusted code: but for what was granted, the files, processes and network of others are out of its reach.",
    IsolationLevel.NAMESPACES: "For untrusted code, behind one wall where level full has two.",
    IsolationLevel.LANDLOCK: "For code you half trust: files, network and system calls are walled off; limits hold only in part.",
    IsolationLevel.LANDLOCK_PARTIAL: "For code you trust: files are walled off, which stops mistakes; malice finds ways.",
    IsolationLevel.LIMITS: "For code you trust: crashes and leaks stay in the plugin; malice does not.",
    IsolationLevel.NONE: "For code you trust: only a crash stays in the plugin.",
}


@final
@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of isolation, as it is for this plugin.

    Attributes:
        name: What it is.
        state: ``soft``: it stops mistakes, not malice.
        detail: Figures, or why it is off.
        confirmed: It was read back from the kernel for this very process; otherwise whoever applied it says so.
    """

    name: str
    state: LayerState
    detail: str = ""
    confirmed: bool = False


@final
@dataclass(frozen=True, slots=True)
class Lack:
    """A wall that cannot be had on this machine.

    Attributes:
        wall: Which.
        why: What was tried, and what the answer was.
        cure: What an operator can do; empty when nothing.
    """

    wall: str
    why: str
    cure: str = ""

    @property
    def text(self) -> str:
        """Return it as part of a sentence."""
        return f"{self.wall}: {self.why}" + (f" ({self.cure})" if self.cure else "")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What isolation one plugin got.

    Attributes:
        level: Achieved level.
        uid: User that it runs as; None where there is no such thing, or it is the host itself.
        walls: Which walls stand.
        layers: What was switched on, in the order applied.
        rights: What each right and limit is worth here.
        notes: What the plugin could still do, in sentences for people; the verdict first.
        lacks: Walls that could not be had.
        tree_kill: Whether all that the plugin started ends with it: ``hard`` always, ``soft`` unless it hides on purpose, ``none``
            not at all.
    """

    level: IsolationLevel
    uid: int | None
    walls: Walls
    layers: tuple[Layer, ...]
    rights: Mapping[str, Enforcement]
    notes: tuple[str, ...]
    tree_kill: TreeKill = "soft"
    lacks: tuple[Lack, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return {
            "level": str(self.level),
            "uid": self.uid,
            "layers": [
                {"name": layer.name, "state": layer.state, "detail": layer.detail, "confirmed": layer.confirmed} for layer in self.layers
            ],
            "rights": {name: {"state": str(found.state), "why": found.why} for name, found in self.rights.items()},
            "notes": list(self.notes),
            "tree_kill": self.tree_kill,
            "lacks": [{"wall": lack.wall, "why": lack.why, "cure": lack.cure} for lack in self.lacks],
        }

    def as_text(self) -> str:
        """Return lines for a terminal."""
        lines = [f"level: {self.level}", f"uid: {'-' if self.uid is None else self.uid}", f"tree kill: {self.tree_kill}", "layers:"]
        lines += [_layer_line(layer) for layer in self.layers]
        lines.append("rights and limits:")
        lines += [f"  {name}: {found.state} ({found.why})" for name, found in self.rights.items()]
        if self.lacks:
            lines.append("not to be had on this machine:")
            lines += [f"  {lack.text}" for lack in self.lacks]
        lines.append("notes:")
        lines += [f"  - {note}" for note in self.notes]
        return "\n".join(lines)


def receipt_for(
    walls: Walls,
    *,
    uid: int | None,
    layers: tuple[Layer, ...],
    tree_kill: TreeKill = "soft",
    more: tuple[str, ...] = (),
    lacks: tuple[Lack, ...] = (),
) -> Receipt:
    """Make the receipt of a launch.

    Args:
        walls: Which stand.
        uid: User that the plugin runs as.
        layers: What was switched on.
        tree_kill: What its end is worth.
        more: Further notes.
        lacks: Walls that could not be had.
    """
    return Receipt(
        level=walls.level,
        uid=uid,
        walls=walls,
        layers=layers,
        rights=enforcement(walls),
        notes=(*_notes(walls, tree_kill), *more),
        tree_kill=tree_kill,
        lacks=lacks,
    )


def _layer_line(layer: Layer) -> str:
    told = ", ".join(filter(None, (layer.detail, "as the kernel says" if layer.confirmed else "")))
    return f"  {layer.name}: {layer.state}" + (f" ({told})" if told else "")


def _notes(walls: Walls, tree_kill: TreeKill) -> Iterator[str]:
    if not walls.own_process:
        yield _IN_PROCESS_NOTE
        return
    if walls.by_hand:
        yield _BY_HAND_NOTE
        return
    yield _VERDICTS[walls.level]
    if not walls.keep_files:
        yield from (_OWN_UID_NOTE,) if walls.own_uid else _SAME_UID_NOTES
    if not walls.seccomp:
        yield _NO_FILTER_NOTE if walls.keep_files else _NO_WALLS_NOTE
    elif walls.namespaces and not walls.landlock_abi:
        yield _ONE_WALL_NOTE
    elif not walls.namespaces:
        yield _SHARED_LIST_NOTE
    if walls.keep_files and not walls.keep_processes:
        yield _SIGNALS_NOTE
    yield from _limit_notes(walls)
    if tree_kill == "soft":
        yield _SOFT_KILL_NOTE
    if walls.level.is_at_least(IsolationLevel.LANDLOCK):
        yield _SHARED_KERNEL_NOTE


def _limit_notes(walls: Walls) -> Iterator[str]:
    if not walls.rlimits:
        yield _NO_FILE_LIMITS_NOTE if walls.cgroup else _NO_LIMITS_NOTE
    elif "memory" not in walls.cgroup:
        yield _SOFT_MEMORY_NOTE
    if walls.rlimits and "cpu" not in walls.cgroup:
        yield _NO_CPU_NOTE
