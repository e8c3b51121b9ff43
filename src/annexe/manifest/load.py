"""Reading a plugin's folder: its manifest, what the manifest points to, its digest.

The plugin's code is never run to learn about it, and nothing outside its folder is opened.

* ``plugin.toml`` is a file, not a link, of bounded size.
* What the manifest names inside the folder (entry, schemas) must be a file there, links resolved.
* The schemas of hooks that it defines, and of services, are read with it: what it opens to others changes when they do.

Source: feature LC1; ADR-0016.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import final

from annexe.errors import ManifestError
from annexe.manifest.digest import folder_digest
from annexe.manifest.files import open_file, resolve_inside
from annexe.manifest.memory import ManifestMemory
from annexe.manifest.model import Manifest
from annexe.manifest.parse import MAX_MANIFEST_BYTES, read_document
from annexe.manifest.reader import Problems

__all__ = ["MANIFEST_NAME", "MAX_HOOK_SCHEMA_BYTES", "MAX_SERVICE_SCHEMA_BYTES", "LoadedManifest", "load_manifest", "read_manifest"]

MANIFEST_NAME = "plugin.toml"
MAX_HOOK_SCHEMA_BYTES = 64 * 1024
MAX_SERVICE_SCHEMA_BYTES = 64 * 1024
_MAX_SERVICE_SCHEMAS = 32  # all of them are kept


@final
@dataclass(frozen=True, slots=True)
class LoadedManifest:
    """A manifest, the folder it was found in (resolved), and the digest of all that is in that folder."""

    manifest: Manifest
    folder: Path
    digest: str


def load_manifest(folder: Path) -> LoadedManifest:
    """Read and check a plugin's folder, content digest included.

    Raises:
        ManifestError: With every problem.
    """
    manifest = read_manifest(folder)
    return LoadedManifest(manifest, folder.resolve(), folder_digest(folder))


def read_manifest(folder: Path, *, memory: ManifestMemory | None = None) -> Manifest:
    """Read and check a plugin's manifest and that what it names is there; cheaper than ``load_manifest`` by the digest.

    Args:
        folder: The plugin's.
        memory: What manifests said earlier.

    Raises:
        ManifestError: With every problem.
    """
    path, folder = folder / MANIFEST_NAME, Path(os.path.realpath(folder))
    manifest, problems = _read(_content(path), memory, source=str(path))
    _check_files(manifest, folder, problems)
    if not problems:
        manifest = _with_schemas(manifest, folder, problems)
    if problems:
        raise ManifestError(source=str(path), problems=problems.texts(), plugin=manifest.id or None)
    return manifest


def _read(text: bytes, memory: ManifestMemory | None, *, source: str) -> tuple[Manifest, Problems]:
    remembered = memory.recall(text) if memory is not None else None
    if remembered is not None:
        return remembered, Problems(text.decode())
    manifest, problems = read_document(text, source=source)
    if memory is not None and not problems:
        memory.keep(text, manifest)
    return manifest, problems


def _content(path: Path) -> bytes:
    try:
        with open_file(path) as file:
            return file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        reason = "a link" if path.is_symlink() else error.strerror
        raise ManifestError(source=str(path), problems=[f"expected a file that can be read, got: {reason}"]) from error


def _check_files(manifest: Manifest, folder: Path, problems: Problems) -> None:
    """Note every file that the manifest names and that is not there; those that did not fit as a path are empty and noted already."""
    runtime = manifest.runtime
    named: list[tuple[tuple[str, ...], list[str]]] = []
    if runtime.kind == "python":
        module = runtime.entry.replace(".", "/")
        named.append((("runtime", "entry"), [f"{module}.py", f"{module}/__init__.py"] if module else []))
    else:
        named.append((("runtime", "entry"), [runtime.entry]))
        named += [(("runtime", "entry", target), [path]) for target, path in runtime.entry_by_target.items()]
    for name, offer in manifest.provides.hook_specs.items():
        named += [(("provides", "hook-specs", name, key), [path]) for key, path in (("schema", offer.schema), ("result", offer.result))]
    named += [(("provides", "services", name, "schema"), [offer.schema]) for name, offer in manifest.provides.services.items()]
    named.append((("config", "schema"), [manifest.config_schema or ""]))
    for key, paths in named:
        wanted = [path for path in paths if path]
        if wanted and not any(_is_file_inside(path, folder) for path in wanted):
            problems.add(
                key, f"expected the file {' or '.join(map(repr, wanted))} inside the plugin's folder, got {_instead(folder, wanted)}"
            )


def _with_schemas(manifest: Manifest, folder: Path, problems: Problems) -> Manifest:
    """Return a manifest with what is in the schemas of its hooks and services; what cannot be read is noted."""
    provides, read = manifest.provides, partial(_read_schema, folder=folder, problems=problems)
    if not provides.hook_specs and not any(offer.schema for offer in provides.services.values()):
        return manifest
    if sum(bool(offer.schema) for offer in provides.services.values()) > _MAX_SERVICE_SCHEMAS:
        problems.add(("provides", "services"), f"expected at most {_MAX_SERVICE_SCHEMAS} services with a schema, got more")
        return manifest
    specs = {
        name: replace(
            offer,
            schema_text=read(offer.schema, ("provides", "hook-specs", name, "schema"), max_bytes=MAX_HOOK_SCHEMA_BYTES),
            result_text=read(offer.result, ("provides", "hook-specs", name, "result"), max_bytes=MAX_HOOK_SCHEMA_BYTES),
        )
        for name, offer in provides.hook_specs.items()
    }
    services = {
        name: replace(offer, schema_text=read(offer.schema, ("provides", "services", name, "schema"), max_bytes=MAX_SERVICE_SCHEMA_BYTES))
        for name, offer in provides.services.items()
    }
    return replace(manifest, provides=replace(provides, hook_specs=specs, services=services))


def _read_schema(path: str, key: tuple[str, ...], *, folder: Path, problems: Problems, max_bytes: int) -> bytes:
    """Return what is in the file of a schema; nothing where there is none, and where what is wrong with it is noted."""
    resolved = resolve_inside(folder / path, folder) if path else None
    if resolved is None:
        return b""
    try:
        with open_file(resolved) as file:
            text = file.read(max_bytes + 1)
    except OSError as error:
        problems.add(key, f"expected a file that can be read, got: {error.strerror}")
        return b""
    if len(text) > max_bytes:
        problems.add(key, f"expected a schema of at most {max_bytes} bytes, got more")
    return text


def _is_file_inside(path: str, folder: Path) -> bool:
    """Say whether a relative path, as manifests have them, leads to a file of the folder's own."""
    at, mode = str(folder), 0
    for part in path.split("/"):
        if part in {"", ".", ".."}:
            return False
        at = f"{at}/{part}"
        try:
            mode = os.lstat(at).st_mode
        except (OSError, ValueError):
            return False
        if stat.S_ISLNK(mode):  # else there is nothing to resolve, which takes ten times as long
            resolved = resolve_inside(folder / path, folder)
            return resolved is not None and resolved.is_file()
    return stat.S_ISREG(mode)


def _instead(folder: Path, paths: list[str]) -> str:
    leads_out = any(os.path.lexists(folder / path) and resolve_inside(folder / path, folder) is None for path in paths)
    return "a link that leads elsewhere" if leads_out else "no such file"
