"""What configuration a plugin gets: what the operator wrote, completed and checked by the plugin's schema.

* Nothing that does not fit its schema is ever stored, and nothing stored reaches a plugin unchecked: a new version of a plugin may have
  a new schema.
* Stored is what the operator wrote, without defaults: those are the schema's, and may change with it.
* A plugin without a schema has no configuration: only the empty object fits.

Synchronous; called on the thread that owns the store.

Source: feature HS4; ADR-0023.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import msgspec

from annexe.capabilities.config_schema import ConfigSchema
from annexe.clock import Clock
from annexe.storage.config import ConfigTable

__all__ = ["ConfigService", "PluginConfig", "schema_of"]

_NO_CONFIGURATION = {"type": "object", "additionalProperties": False}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PluginConfig:
    """A plugin's configuration at one moment.

    Attributes:
        value: With defaults filled in: what the plugin gets.
        written: What the operator wrote: what is edited.
        revision: Rises with each write; 0 as long as nobody wrote one.
    """

    value: dict[str, Any]
    written: dict[str, Any]
    revision: int


def schema_of(folder: Path, relative: str | None, *, plugin: str) -> ConfigSchema:
    """Return a plugin's schema.

    Args:
        folder: The plugin's folder.
        relative: Path of the schema file as the manifest has it; ``None`` if it has none.
        plugin: Id of the plugin, for errors.

    Raises:
        ConfigInvalidError: The schema is refused; ``problems``.
    """
    if relative is None:
        return ConfigSchema(_NO_CONFIGURATION, plugin=plugin, source=f"{folder / 'plugin.toml'} (which has no [config] schema)")
    return ConfigSchema.load(folder, relative, plugin=plugin)


@final
class ConfigService:
    """Reads and writes configurations.

    Args:
        table: Where they are stored.
        clock: For the time of a write.
    """

    def __init__(self, table: ConfigTable, clock: Clock) -> None:
        self._table = table
        self._clock = clock

    def read(self, plugin: str, schema: ConfigSchema) -> PluginConfig:
        """Return a plugin's configuration.

        Raises:
            ConfigInvalidError: What is stored, or nothing at all, does not fit the schema; ``problems``.
            StorageError: The store failed.
        """
        stored = self._table.get(plugin)
        written = {} if stored is None else dict(stored.value)
        return PluginConfig(value=schema.complete(written), written=written, revision=0 if stored is None else stored.revision)

    def write(self, plugin: str, schema: ConfigSchema, value: Any, *, expected_revision: int | None) -> PluginConfig:
        """Check and store a plugin's configuration.

        Args:
            plugin: Whose.
            schema: What it must fit, once defaults are filled in.
            value: All of it: what is not in it is gone.
            expected_revision: The revision the writer has seen, 0 for none; ``None`` writes in any case.

        Raises:
            ConfigInvalidError: It does not fit; ``problems``. Nothing was stored.
            ConflictError: Somebody else has written it meanwhile. Nothing was stored.
            StorageError: The store failed.
        """
        completed = schema.complete(value)
        # As JSON has it: what is returned now is what will be read later.
        written = msgspec.json.decode(msgspec.json.encode(value))
        stored = self._table.put(plugin, written, expected_revision=expected_revision, now_s=self._clock.now())
        return PluginConfig(value=completed, written=written, revision=stored.revision)
