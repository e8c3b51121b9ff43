"""Which walls this machine offers to a plugin: found out by putting them all up around a stub that does nothing, never from a version.

From the strongest down: with every wall, then without ``/proc`` (in many containers it cannot be mounted), then without namespaces, and
so on. The first that works is the offer; what was refused on the way is kept with its cure, for the receipt and ``annexe doctor``.
Blocking; once for each kind of user and interpreter, and again after a minute while something is lacking.

Source: rule 4 of the architecture; docs/adr/0070-one-view-many-walls.md.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from time import monotonic
from typing import final

from annexe.launch.become import as_user
from annexe.launch.private_frame import PrivateFrame
from annexe.launch.python_env import Interpreter, replaceable_at
from annexe.launch.runtime import Runtime
from annexe.sandbox import Profile, Walls, seccomp
from annexe.sandbox.bubblewrap import OPTIONS_WANTED, Bubblewrap, arguments
from annexe.sandbox.landlock import ruleset
from annexe.sandbox.receipt import Lack
from annexe.sandbox.view import places_for

__all__ = ["WALL_NAMES", "Offer", "OfferFinder", "landlock_abi"]

WALL_NAMES = ("namespaces", "landlock", "seccomp", "rlimits")
"""What can be left out for the sake of a test."""

_TIMEOUT_S = 10.0
_SHORT_HOLDS_S = 60.0
_BUBBLEWRAP_AT = ("/usr/bin/bwrap", "/usr/local/bin/bwrap")
_ROOT_LINKS = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")
_TMP_BYTES = 65536
_LANDLOCK_CREATE_RULESET, _LANDLOCK_VERSION = 444, 1
_MAX_SAID_CHARS = 300


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What can be put up around a plugin here.

    Attributes:
        bubblewrap: For namespaces; None when there are none.
        landlock_abi: 0 when there is none.
        seccomp: Filters of system calls work.
        rlimits: Limits of the kernel are set; only ever off in tests.
        lacks: Walls that cannot be had, and why.
    """

    bubblewrap: Bubblewrap | None = None
    landlock_abi: int = 0
    seccomp: bool = False
    rlimits: bool = True
    lacks: tuple[Lack, ...] = ()

    def walls(self, *, own_uid: bool, cgroup: frozenset[str]) -> Walls:
        """Return which walls a launch is put behind.

        Args:
            own_uid: It has a user of its own.
            cgroup: What its control group limits.
        """
        return Walls(
            own_uid=own_uid,
            rlimits=self.rlimits,
            namespaces=self.bubblewrap is not None,
            caps_tmp=self.bubblewrap is not None and self.bubblewrap.caps_tmp,
            seccomp=self.seccomp,
            landlock_abi=self.landlock_abi,
            cgroup=cgroup,
        )

    def filters_for(self, profile: Profile, *, runs_program: bool) -> dict[str, bytes]:
        """Return the filters of system calls for one launch by name, in loading order."""
        if not self.seccomp:
            return {}
        return (
            seccomp.programs_for(
                platform.machine(),
                may_run_programs=profile.subprocess or runs_program,
                may_fork=profile.subprocess,
                network=profile.network,
                sees_all_files=self.bubblewrap is None,
            )
            or {}
        )

    def lacking(self) -> str:
        """Return what is missing and what would mend it, as the end of a sentence; empty when nothing is."""
        return "; ".join(lack.text for lack in self.lacks)


@final
class OfferFinder:
    """Finds offers and remembers them.

    Args:
        bubblewrap: Where to look for it; by default on the host's path and where systems put it. None: nowhere.
        now: Monotonic time in seconds.
        unsafe_without: Walls left out, for tests that show what an attack does then.
    """

    def __init__(
        self, *, bubblewrap: Path | str | None = "", unsafe_without: Collection[str] = (), now: Callable[[], float] = monotonic
    ) -> None:
        if unknown := sorted(set(unsafe_without) - set(WALL_NAMES)):
            raise ValueError(f"expected walls of {', '.join(WALL_NAMES)}, got {', '.join(unknown)}")
        self._bubblewrap_at = bubblewrap
        self._without = frozenset(unsafe_without)
        self._now = now
        self._known: dict[tuple[Path, bool], tuple[Offer, float]] = {}
        self.latest: Offer | None = None  # what was found last
        self._finding = threading.Lock()  # ten plugins that start at once try it once

    def find(self, interpreter: Interpreter, runtime: Runtime, *, uid: int | None, scratch: Path) -> Offer:
        """Return what can be had.

        Args:
            interpreter: What runs the stub.
            runtime: Has the stub.
            uid: A user to try it as; None: the host's.
            scratch: A private folder of that user.
        """
        key = (interpreter.path, uid is not None)
        with self._finding:
            offer, until_s = self._known.get(key, (Offer(), 0.0))
            if self._now() >= until_s:
                offer = self._left(_Trial(interpreter, runtime, uid, scratch).best(_find_bubblewrap(self._bubblewrap_at)))
                # What fell short may have done so for a reason that passes: a busy machine must not lower the level for good.
                self._known[key] = offer, self._now() + _SHORT_HOLDS_S if offer.lacks else inf
            self.latest = offer
            return offer

    def _left(self, offer: Offer) -> Offer:
        without = self._without
        return replace(
            offer,
            bubblewrap=None if "namespaces" in without else offer.bubblewrap,
            landlock_abi=0 if "landlock" in without else offer.landlock_abi,
            seccomp=offer.seccomp and "seccomp" not in without,
            rlimits="rlimits" not in without,
        )


@final
class _Trial:
    """Tries walls around a stub that does nothing."""

    def __init__(self, interpreter: Interpreter, runtime: Runtime, uid: int | None, scratch: Path) -> None:
        self._interpreter = interpreter
        self._runtime = runtime
        self._uid = uid
        self._scratch = scratch

    def best(self, bubblewrap: Bubblewrap | Lack) -> Offer:
        """Return the first set of walls that works, the strongest first, and what is lacking."""
        whole = Offer(landlock_abi=landlock_abi(), seccomp=seccomp.programs_for(platform.machine(), **_NO_RIGHTS) is not None)
        lacks = list(_absent(whole, bubblewrap))
        failures: list[tuple[Offer, str]] = []
        for offer in _weaker_and_weaker(whole, None if isinstance(bubblewrap, Lack) else bubblewrap):
            said = self._try(offer)
            if said is None:
                break
            failures.append((offer, said))
        return replace(offer, lacks=(*lacks, *_lost(offer, failures)))

    def _try(self, offer: Offer) -> str | None:
        """Put the walls up around a stub that does nothing; return what went wrong, None when nothing did."""
        profile = Profile()
        python, runtime = str(self._interpreter.path), str(self._runtime.folder)
        places = places_for(profile, folder=runtime, runtime=runtime, python=python, prefix=str(self._interpreter.prefix))
        frame = PrivateFrame(
            host_pid=os.getpid() if offer.bubblewrap is None else 0,
            limits={},
            landlock=ruleset(offer.landlock_abi, places, private=(str(self._scratch),)) if offer.landlock_abi else None,
            filters=[*offer.filters_for(profile, runs_program=False).values()],
            is_trial=True,
        )
        ours, theirs = socket.socketpair()
        with ours, theirs, Path(os.devnull).open("wb") as nowhere:
            become, user = as_user(self._uid)
            inner = [python, "-I", "-S", str(self._runtime.stub)]
            if offer.bubblewrap is not None:
                inner = (
                    arguments(
                        offer.bubblewrap, places, tmp_bytes=_TMP_BYTES, scratch=str(self._scratch), info_fd=nowhere.fileno(), block_fd=None
                    )
                    + inner
                )
            ours.sendall(frame.packed())
            try:
                done = subprocess.run(  # noqa: S603 - bubblewrap, an interpreter that was probed, and our own stub
                    [*become, *inner], pass_fds=(theirs.fileno(), nowhere.fileno()), env={"ANNEXE_FD": str(theirs.fileno())}, cwd="/",
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=_TIMEOUT_S, check=False, **user,
                )  # fmt: skip
            except (OSError, subprocess.TimeoutExpired) as error:
                return str(error)
        if done.returncode == 0:
            return None
        said = done.stderr.decode(errors="replace").strip().replace("\n", "; ")[:_MAX_SAID_CHARS]
        return said or f"status {done.returncode}"


def _weaker_and_weaker(whole: Offer, bubblewrap: Bubblewrap | None) -> Iterator[Offer]:
    """Yield what could be put up, by the level that it makes; the last is nothing at all."""
    views = (bubblewrap, replace(bubblewrap, mounts_proc=False), None) if bubblewrap is not None else (None,)
    for has_filter in (True, False) if whole.seccomp else (False,):
        for view in views:
            for abi in dict.fromkeys((whole.landlock_abi, 0)):
                yield replace(whole, bubblewrap=view, landlock_abi=abi, seccomp=has_filter)


def _absent(whole: Offer, bubblewrap: Bubblewrap | Lack) -> Iterator[Lack]:
    """Yield what is not there to be tried."""
    if not whole.landlock_abi:
        yield Lack("landlock", "the kernel has none, or it is switched off", "use Linux 5.13 or newer, booted with lsm=landlock,…")
    if not whole.seccomp:
        yield Lack("seccomp", f"there are no filters for {platform.machine()}")
    if isinstance(bubblewrap, Lack):
        yield bubblewrap


def _lost(offer: Offer, failures: Sequence[tuple[Offer, str]]) -> Iterator[Lack]:
    """Yield what was tried and did not work: of each wall, what was said when it was the only one more than there is now."""
    for wall, has in _HAS.items():
        if has(offer) or not any(has(tried) for tried, _ in failures):
            continue
        others = [other for name, other in _HAS.items() if name != wall]
        alone = [said for tried, said in failures if has(tried) and all(bool(other(tried)) == bool(other(offer)) for other in others)]
        said = (alone or [said for tried, said in failures if has(tried)])[0]
        by = "bubblewrap" if wall == "namespaces" else "the stub"
        yield Lack(wall, f"{by} says: {said}", _cure_of(said) if wall == "namespaces" else "")


_HAS: Mapping[str, Callable[[Offer], object]] = {
    "namespaces": lambda offer: offer.bubblewrap,
    "landlock": lambda offer: offer.landlock_abi,
    "seccomp": lambda offer: offer.seccomp,
}
_NO_RIGHTS = {"may_run_programs": False, "may_fork": False, "network": False}


def landlock_abi() -> int:
    """Return the version of Landlock that this process could use; 0 when there is none."""
    try:
        syscall = ctypes.CDLL(None, use_errno=True).syscall
    except (OSError, AttributeError):  # not on Linux
        return 0
    return max(0, int(syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION)))


def _find_bubblewrap(at: Path | str | None) -> Bubblewrap | Lack:
    cure = "apt install bubblewrap, or as your system calls it"
    if at is None:
        return Lack("namespaces", "bubblewrap is not to be used", cure)
    wanted = [at] if at else [shutil.which("bwrap") or "", *_BUBBLEWRAP_AT]
    path = next((Path(one).resolve() for one in wanted if one and os.access(one, os.X_OK)), None)
    if path is None:
        return Lack("namespaces", "bubblewrap (bwrap) is not installed", cure)
    if (loose := replaceable_at(path)) is not None:
        return Lack("namespaces", f"{path} could have been put there by others than root: see owner and mode of {loose}", cure)
    try:
        told = subprocess.run([path, "--help"], capture_output=True, text=True, timeout=_TIMEOUT_S, check=True, cwd="/", env={})  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        return Lack("namespaces", f"{path} does not run: {error}", cure)
    links = tuple((f"/{name}", os.readlink(f"/{name}")) for name in _ROOT_LINKS if os.path.islink(f"/{name}"))  # noqa: PTH114, PTH115
    options = frozenset(option for option in OPTIONS_WANTED if f"{option} " in f"{told.stdout}{told.stderr} ")
    return Bubblewrap(path=str(path), options=options, links=links)


def _cure_of(said: str) -> str:
    """Return what helps where bubblewrap says this."""
    if "uid map" in said:
        return "let bubblewrap make user namespaces: install your distribution's AppArmor profile for it (apt install apparmor-profiles)"
    if "No space left" in said:
        return "raise the number of user namespaces: sysctl user.max_user_namespaces=10000"
    if "Creating new namespace failed" in said or "No permissions to create" in said:
        return (
            "allow user namespaces: sysctl kernel.unprivileged_userns_clone=1; in a container, a seccomp profile that lets unshare "
            "through (docker run --security-opt seccomp=unconfined)"
        )
    return "see what bubblewrap says"
