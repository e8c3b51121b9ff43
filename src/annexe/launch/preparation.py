"""Everything a launch needs before there is a process: interpreter, runtime folder, readable code, a user, a private folder, walls.

Blocking: the strategy calls it from worker threads, for several plugins at a time.

Invariants:

* What ``prepare`` took (uid, folder) is given back by ``undo``, also when ``prepare`` itself fails half-way.
* A root host never runs a plugin as root.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from annexe.errors import LaunchError, SandboxError
from annexe.launch.bytecode import Bytecode
from annexe.launch.copies import PluginCopies
from annexe.launch.data_folders import DataFolders
from annexe.launch.folders import owned_folder, remove_unused, unreachable_at
from annexe.launch.granted_paths import GrantedPath, granted_paths
from annexe.launch.offer import Offer, OfferFinder
from annexe.launch.programs import program_of
from annexe.launch.python_env import PythonChoice, PythonFinder
from annexe.launch.removal import remove_tree
from annexe.launch.runtime import Runtime, RuntimeFolders
from annexe.launch.strategy import LaunchRequest
from annexe.launch.uids import UidAllocator
from annexe.sandbox import Profile
from annexe.sandbox.bubblewrap import TMP
from annexe.sandbox.view import Place, places_for

__all__ = ["Home", "Preparation", "Prepared"]

_logger = logging.getLogger(__name__)
_UNUSED_S = 30 * 24 * 3600.0
_AT_ONCE = 8


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """What a fork server has taken for all its forks.

    Attributes:
        uid: The plugin's own user; None when it shares the host's.
        scratch: Its private folder.
    """

    uid: int | None
    scratch: Path


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What one launch was given.

    Attributes:
        request: What for.
        folder: Where the plugin's code is run from: its own folder or a copy.
        python: Interpreter that runs the stub, and the plugin if it is a Python one.
        runtime: Runtime folder for that interpreter.
        program: What the stub is to exec; empty for a Python plugin.
        uid: The plugin's own user; None when it shares the host's.
        scratch: Its private folder.
        offer: Which walls can be put up around it.
        places: What it sees of the machine's files where a wall keeps them.
        granted: Those of them that it was granted.
        notes: For the receipt.
    """

    request: LaunchRequest
    folder: Path
    python: PythonChoice
    runtime: Runtime
    program: tuple[str, ...]
    uid: int | None
    scratch: Path
    offer: Offer
    places: tuple[Place, ...]
    granted: tuple[GrantedPath, ...]
    notes: tuple[str, ...]

    @property
    def in_memory(self) -> dict[str, int]:
        """Return the size in bytes of its folders in memory, by path, beside the temporary one."""
        profile = self.request.profile
        in_memory_bytes = profile.data_in_memory_bytes
        return {profile.data: in_memory_bytes} if profile.data is not None and in_memory_bytes is not None else {}

    @property
    def private(self) -> tuple[str, ...]:
        """Return the folders for temporary files that only the plugin has, as it sees them."""
        return (str(self.scratch),) if self.offer.bubblewrap is None else (*self.offer.bubblewrap.private, *self.in_memory)

    @property
    def tmp(self) -> str:
        """Return the temporary folder as the plugin sees it."""
        return str(self.scratch) if self.offer.bubblewrap is None else TMP


@final
class Preparation:
    """Prepares launches of one host.

    Args:
        cache: Folder for runtime folders, copies and private folders.
        pythons: How interpreters are found.
        uids: Where plugin users come from; None when the host is not root.
        offers: Finds out which walls there are.
        data: Where plugins' private folders are.
    """

    def __init__(
        self, *, cache: Path, pythons: PythonFinder, uids: UidAllocator | None, offers: OfferFinder, data: DataFolders | None = None
    ) -> None:
        self._cache = cache
        self._offers = offers
        self._data = data
        self._pythons = pythons
        self._uids = uids
        self._runtimes = RuntimeFolders(cache / "runtime")
        self._copies = PluginCopies(cache / "plugins")
        self._bytecode = Bytecode(cache / "bytecode")
        # Ten plugins that start at once must not build the same runtime folder ten times. Never held while files of a plugin are read.
        self._building = threading.Lock()
        self._compiling: dict[str, threading.Lock] = {}  # for each plugin: a slow one keeps no other waiting
        self._at_work: dict[str, threading.Semaphore] = {}  # for each plugin: what nobody waits for any more goes on all the same

    def prepare(self, request: LaunchRequest, home: Home | None = None) -> Prepared:
        """Get everything ready.

        Args:
            request: What for.
            home: User and private folder, where there are such already.

        Raises:
            LaunchError: Something cannot be had; the text holds the cure.
        """
        at_work = self._at_work.setdefault(request.plugin, threading.Semaphore(_AT_ONCE))
        if not at_work.acquire(blocking=False):
            text = f"plugin {request.plugin!r} has {_AT_ONCE} starts still being prepared; its files may be very many or slow to read."
            raise LaunchError(text, plugin=request.plugin)
        try:
            return self._prepare(request, home)
        finally:
            at_work.release()

    def _prepare(self, request: LaunchRequest, home: Home | None) -> Prepared:
        entry = _entry_file(request)
        with contextlib.ExitStack() as undo:
            uid, scratch = self._settle_in(request.plugin, undo) if home is None else (home.uid, home.scratch)
            folder, notes = self._readable(request, uid, entry)
            is_python = request.kind == "python"
            profile, granted = self._granted(request, uid)
            python = self._pythons.find(
                plugin=request.plugin,
                folder=folder if is_python else None,
                requires_python=request.requires_python,
                uid=uid,
                readable=[Path(path) for path in (*profile.read, *profile.write)],
            )
            with self._building:
                runtime = self._runtimes.for_interpreter(python.interpreter)
            if is_python:
                folder, notes = self._compiled(request, folder, python, notes)
            program = program_of(request, folder, uid=uid)
            offer = self._offers.find(python.interpreter, runtime, uid=uid, scratch=scratch)
            _check_data_in_memory(profile, offer, plugin=request.plugin)
            places = places_for(
                profile,
                folder=str(folder),
                runtime=str(runtime.folder),
                python=str(python.interpreter.path),
                prefix=str(python.interpreter.prefix),
                packages=[*map(os.path.realpath, python.packages), *program.libraries],
                executables=program.executables,
            )
            undo.pop_all()
            return Prepared(
                request=replace(request, profile=profile),
                folder=folder,
                python=python,
                runtime=runtime,
                program=program.argv,
                uid=uid,
                scratch=scratch,
                offer=offer,
                places=places,
                granted=granted,
                notes=(*notes, *python.notes, *self._bound(request, offer)),
            )

    def look(self) -> Offer:
        """Return what walls a plugin without an environment of its own would get.

        Raises:
            LaunchError: No interpreter can be had; the text holds the cure.
        """
        with contextlib.ExitStack() as undo:
            uid, scratch = self._settle_in("trial", undo)
            interpreter = self._pythons.find(plugin="trial", folder=None, requires_python="", uid=uid).interpreter
            with self._building:
                runtime = self._runtimes.for_interpreter(interpreter)
            return self._offers.find(interpreter, runtime, uid=uid, scratch=scratch)

    def _settle_in(self, name: str, undo: contextlib.ExitStack) -> tuple[int | None, Path]:
        """Take a user and a private folder."""
        uid = None
        if self._uids is not None:
            uid = self._uids.acquire()
            undo.callback(self._uids.release, uid)
        scratch = self._scratch(name, uid)
        undo.callback(shutil.rmtree, scratch, ignore_errors=True)
        return uid, scratch

    def undo(self, prepared: Prepared) -> None:
        """Give back what a launch took that came to nothing; not for one that was given a home."""
        remove_tree(prepared.scratch)
        if prepared.uid is not None:
            self.release_uid(prepared.uid)

    def sweep(self) -> None:
        """Remove from the cache what no host has used for long: byte code's stamps, runtime folders, copies of plugins that are gone."""
        before = time.time() - _UNUSED_S
        for name in ("bytecode", "runtime", "plugins"):
            try:
                remove_unused(self._cache / name, before=before)
            except (LaunchError, OSError) as error:  # the next launch tells its plugin
                _logger.warning("the cache cannot be tidied up: %s", error)

    def close(self) -> None:
        """Let go of what the plugins used; all of them are gone."""
        self._runtimes.close()
        self._copies.close()

    def release_uid(self, uid: int) -> None:
        """Give a plugin's user back, once nothing runs as it."""
        if self._uids is not None:
            self._uids.release(uid)

    def _scratch(self, name: str, uid: int | None) -> Path:
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=owned_folder(owned_folder(self._cache) / "scratch")))
        if uid is not None:
            os.chown(folder, uid, uid)
        return folder

    def _granted(self, request: LaunchRequest, uid: int | None) -> tuple[Profile, tuple[GrantedPath, ...]]:
        """Return the profile with real paths in place of those that were granted, and what is there."""
        profile, own = request.profile, (self._cache, *request.hosts_own)
        read = granted_paths(request.plugin, profile.read, for_writing=False, uid=uid, hosts_own=own)
        write = granted_paths(request.plugin, profile.write, for_writing=True, uid=uid, hosts_own=own)
        if profile.data is not None and profile.data_in_memory_bytes is None and self._data is not None:
            self._data.ensure(request.plugin, uid=uid)
        real = replace(profile, read=tuple(one.path for one in read), write=tuple(one.path for one in write))
        return real, (*read, *write)

    def _bound(self, request: LaunchRequest, offer: Offer) -> tuple[str, ...]:
        """Have the kernel keep the quota of its private folder, where it can, and say so if it does."""
        profile = request.profile
        if self._data is None or profile.data is None or profile.data_quota_bytes is None:
            return ()
        quota = self._data.bound(request.plugin, max_bytes=profile.data_quota_bytes)
        # Without a user namespace of its own it can move its files to another project.
        return ("the quota of its private folder is kept by the kernel",) if quota.is_enforced and offer.bubblewrap is not None else ()

    def _readable(self, request: LaunchRequest, uid: int | None, entry: Path) -> tuple[Path, tuple[str, ...]]:
        """Return where the plugin's user can read its code."""
        if uid is None:
            return request.folder, ()
        closed = unreachable_at(request.folder, uid) or unreachable_at(entry, uid)
        if closed is None:
            return request.folder, ()
        copy, note = self._copy(request, f"{closed} is closed to the plugin's own user")
        return copy, (note,)

    def _compiled(self, request: LaunchRequest, folder: Path, python: PythonChoice, notes: tuple[str, ...]) -> tuple[Path, tuple[str, ...]]:
        """Return where the plugin's code is with byte code that the host answers for."""
        with self._compiling.setdefault(request.plugin, threading.Lock()):  # its instances must not compile it at the same time
            if self._bytecode.ensure(folder, python.interpreter, is_copy=folder != request.folder):
                return folder, notes
            copy, note = self._copy(request, f"{folder} cannot be written to, so that byte code in it could be forged")
            self._bytecode.ensure(copy, python.interpreter, is_copy=True)
            return copy, (*notes, note)

    def _copy(self, request: LaunchRequest, reason: str) -> tuple[Path, str]:
        copy = self._copies.publish(request.folder, plugin=request.plugin)
        return copy, f"runs from a copy that every user can read, {copy}, since {reason}"


def _entry_file(request: LaunchRequest) -> Path:
    path = request.folder.joinpath(*(request.entry.split(".") if request.kind == "python" else [request.entry]))
    if request.kind == "python":
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not path.exists():
        raise LaunchError(
            f"plugin {request.plugin!r} has no entry {request.entry!r}: expected the file {path}; mend [runtime] entry in its plugin.toml.",
            plugin=request.plugin,
            entry=request.entry,
        )
    return path


def _check_data_in_memory(profile: Profile, offer: Offer, *, plugin: str) -> None:
    """Refuse a private folder in memory where there can be none: on disk it would have no hard quota, and outlive the plugin."""
    if profile.data_in_memory_bytes is not None and (offer.bubblewrap is None or not offer.bubblewrap.caps_tmp):
        lacking = offer.lacking() or "this bubblewrap is older than 0.8"
        text = f"plugin {plugin!r} asks for a private folder in memory, which takes bubblewrap 0.8 or newer; {lacking}."
        raise SandboxError(text, plugin=plugin)
