"""What manifests said when a host last started, so that the next start need not parse them again.

Parsing was a third of the start of a host with a thousand plugins. What comes of it follows from the text, our code and Python's, so it is
kept by the text's digest, for one state of the code.

* Only what had nothing wrong with it is kept, and as it was before the files that it names were looked at: those are looked at each time.
* What is not whole, of another state of the code, or cannot be read or written, is as if it were not there.
* The file must lie where the host alone may write: whoever can write there has a manifest say what he likes.

Blocking. Source: ADR-0100.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from pathlib import Path
from typing import final

import msgspec

from annexe.manifest.files import open_file
from annexe.manifest.model import Manifest
from annexe_sdk import wire

__all__ = ["ManifestMemory"]

_MAX_BYTES = 64 * 1024 * 1024
_DIGEST_BYTES = hashlib.sha256().digest_size

# -- the code


def _code() -> bytes:
    """Return the digest of the code by which manifests are parsed; nothing where that cannot be read, and so nothing is believed."""
    here = Path(__file__).parent
    found = hashlib.sha256(sys.version.encode())
    try:
        for path in (Path(wire.__file__), here.parent / "ids.py", *sorted(here.glob("*.py"))):
            found.update(path.read_bytes())
    except OSError:
        return b""
    return found.digest()


_CODE = _code()  # now, and not when a host opens: the files may be another version's by then


# -- the file


_manifests = msgspec.msgpack.Decoder(Manifest)
_kept = msgspec.msgpack.Decoder(dict[bytes, msgspec.Raw])


@final
class ManifestMemory:
    """What is remembered in one file, during one look into the plugin folders.

    Args:
        path: The file; its folder must be there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = _read(path)
        self._wanted: dict[bytes, msgspec.Raw] = {}

    def recall(self, text: bytes) -> Manifest | None:
        """Return what a manifest of this text says, if that is remembered."""
        key = hashlib.sha256(text).digest()
        raw = self._known.get(key)
        if raw is None:
            return None
        try:
            manifest = _manifests.decode(raw)
        except msgspec.MsgspecError:  # not what this code wrote, though whole
            return None
        self._wanted[key] = raw
        return manifest

    def keep(self, text: bytes, manifest: Manifest) -> None:
        """Remember what a manifest of this text says."""
        with contextlib.suppress(OverflowError):  # a size beyond 64 bits, which this form has no place for
            self._wanted[hashlib.sha256(text).digest()] = msgspec.Raw(msgspec.msgpack.encode(manifest))

    def save(self) -> None:
        """Write what was recalled or kept, and so forget the rest; when that is what is there already, nothing is written."""
        if self._wanted.keys() == self._known.keys() or not _CODE:
            return
        content = msgspec.msgpack.encode(self._wanted)
        draft = self._path.with_suffix(".draft")
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(_CODE + hashlib.sha256(content).digest() + content)
            draft.replace(self._path)


def _read(path: Path) -> dict[bytes, msgspec.Raw]:
    try:
        with open_file(path) as file:
            whole = file.read(_MAX_BYTES)
        code, digest, content = whole[:_DIGEST_BYTES], whole[_DIGEST_BYTES : 2 * _DIGEST_BYTES], whole[2 * _DIGEST_BYTES :]
        if code != _CODE or digest != hashlib.sha256(content).digest():
            return {}
        return _kept.decode(content)
    except (OSError, msgspec.MsgspecError):
        return {}
