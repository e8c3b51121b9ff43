"""Reading a plugin's folder: its manifest, what the manifest points to, its digest.

The plugin's code is never run to learn about it, and nothing outside its folder is opened.

* ``plugin.toml`` is a file, not a link, of bounded size.
* What the manifest names inside the folder (entry, schemas) must be a file there, links resolved.
* The schemas of hooks that it defines are read with it: what it opens to others changes when they do.

Source: feature LC1; ADR-0016.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from annexe.errors import ManifestError
from annexe.manifest.digest import folder_digest
from annexe.manifest.files import open_file, resolve_inside
from annexe.manifest.model import HookSpecOffer, Manifest
from annexe.manifest.parse import MAX_MANIFEST_BYTES, read_document
from annexe.manifest.reader import Problems

__all__ = ["MANIFEST_NAME", "MAX_HOOK_SCHEMA_BYTES", "LoadedManifest", "load_manifest", "read_manifest"]

MANIFEST_NAME = "plugin.toml"
MAX_HOOK_SCHEMA_BYTES = 64 * 1024


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


def read_manifest(folder: Path) -> Manifest:
    """Read and check a plugin's manifest and that what it names is there; cheaper than ``load_manifest`` by the digest.

    Raises:
        ManifestError: With every problem.
    """
    path = folder / MANIFEST_NAME
    manifest, problems = read_document(_content(path), source=str(path))
    _check_files(manifest, folder.resolve(), problems)
    if not problems:
        manifest = _with_schemas(manifest, folder.resolve(), problems)
    if problems:
        raise ManifestError(source=str(path), problems=problems.texts(), plugin=manifest.id or None)
    return manifest


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
    named.append((("config", "schema"), [manifest.config_schema or ""]))
    for key, paths in named:
        wanted = [path for path in paths if path]
        if wanted and not any(_is_file_inside(folder / path, folder) for path in wanted):
            problems.add(
                key, f"expected the file {' or '.join(map(repr, wanted))} inside the plugin's folder, got {_instead(folder, wanted)}"
            )


def _with_schemas(manifest: Manifest, folder: Path, problems: Problems) -> Manifest:
    """Return a manifest with what is in the schemas of its hooks; what cannot be read is noted."""
    if not manifest.provides.hook_specs:
        return manifest
    read = {name: _read_spec(name, offer, folder, problems) for name, offer in manifest.provides.hook_specs.items()}
    return replace(manifest, provides=replace(manifest.provides, hook_specs=read))


def _read_spec(name: str, offer: HookSpecOffer, folder: Path, problems: Problems) -> HookSpecOffer:
    texts = {}
    for key, path in (("schema", offer.schema), ("result", offer.result)):
        resolved = resolve_inside(folder / path, folder) if path else None
        try:
            texts[key] = _content_of(resolved) if resolved is not None else b""
        except OSError as error:
            problems.add(("provides", "hook-specs", name, key), f"expected a file that can be read, got: {error.strerror}")
            continue
        if len(texts[key]) > MAX_HOOK_SCHEMA_BYTES:
            problems.add(("provides", "hook-specs", name, key), f"expected a schema of at most {MAX_HOOK_SCHEMA_BYTES} bytes, got more")
    return replace(offer, schema_text=texts.get("schema", b""), result_text=texts.get("result", b""))


def _content_of(path: Path) -> bytes:
    with open_file(path) as file:
        return file.read(MAX_HOOK_SCHEMA_BYTES + 1)


def _is_file_inside(path: Path, folder: Path) -> bool:
    resolved = resolve_inside(path, folder)
    return resolved is not None and resolved.is_file()


def _instead(folder: Path, paths: list[str]) -> str:
    leads_out = any(os.path.lexists(folder / path) and resolve_inside(folder / path, folder) is None for path in paths)
    return "a link that leads elsewhere" if leads_out else "no such file"
