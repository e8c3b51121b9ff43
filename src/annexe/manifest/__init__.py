"""plugin.toml: what a plugin says of itself, read and checked without running it.

``parse``, ``requirements`` and what they stand on are pure; ``load``, ``digest``, ``discovery`` and ``machine`` read the disk.
"""

from annexe.manifest.digest import folder_digest
from annexe.manifest.discovery import Discovered, Discovery
from annexe.manifest.load import MANIFEST_NAME, LoadedManifest, load_manifest, read_manifest
from annexe.manifest.machine import this_machine
from annexe.manifest.model import Manifest, Permissions
from annexe.manifest.parse import MAX_MANIFEST_BYTES, parse_manifest
from annexe.manifest.requirements import Machine, contract_problems, unmet_requirements

__all__ = [
    "MANIFEST_NAME",
    "MAX_MANIFEST_BYTES",
    "Discovered",
    "Discovery",
    "LoadedManifest",
    "Machine",
    "Manifest",
    "Permissions",
    "contract_problems",
    "folder_digest",
    "load_manifest",
    "parse_manifest",
    "read_manifest",
    "this_machine",
    "unmet_requirements",
]
