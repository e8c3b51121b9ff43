"""Which rights a person granted to which plugin. What a grant means is decided in ``trust``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, final

from sqlalchemy import Row, delete, insert, select, update

from annexe.storage.database import Database
from annexe.storage.tables import GRANTS

__all__ = ["GrantsTable", "StoredGrant"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StoredGrant:
    """One grant.

    Attributes:
        plugin: Id of the plugin it is for.
        rights: The rights, in the manifest's normalised spelling (``kv``, ``cap:orders``).
        digest: Content the grant is bound to; ``None`` for any.
        folder: Folder the grant is bound to, in development; ``None`` for any.
        version_range: Versions the grant is for; empty for any.
        note: Why, in the operator's words.
        granted_by: Who.
        granted_at: Unix seconds.
    """

    plugin: str
    rights: frozenset[str]
    digest: str | None = None
    folder: str | None = None
    version_range: str = ""
    note: str = ""
    granted_by: str
    granted_at: float


@final
class GrantsTable:
    """Grants; a plugin may have several that are bound to different contents. Every method raises StorageError when the store fails."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, grant: StoredGrant) -> None:
        """Keep a grant, in place of those with the same plugin, digest and folder."""
        bound = (GRANTS.c.plugin, grant.plugin), (GRANTS.c.digest, grant.digest), (GRANTS.c.folder, grant.folder)
        # "IS" and not "=": a missing digest or folder is the same as another missing one.
        same = [column.is_not_distinct_from(value) for column, value in bound]
        with self._database.begin() as connection:
            connection.execute(delete(GRANTS).where(*same))
            connection.execute(insert(GRANTS).values(**(asdict(grant) | {"rights": sorted(grant.rights)})))

    def of(self, plugin: str) -> list[StoredGrant]:
        """Return the grants of one plugin, oldest first."""
        with self._database.begin() as connection:
            rows = connection.execute(select(GRANTS).where(GRANTS.c.plugin == plugin).order_by(GRANTS.c.id)).all()
        return [_grant(row) for row in rows]

    def take(self, plugin: str, rights: frozenset[str]) -> frozenset[str]:
        """Take rights out of every grant of a plugin; a grant of nothing is deleted.

        Returns:
            Those that were there.
        """
        taken: frozenset[str] = frozenset()
        with self._database.begin() as connection:
            for row in connection.execute(select(GRANTS).where(GRANTS.c.plugin == plugin)).all():
                given = frozenset(row.rights)
                if given & rights:
                    taken |= given & rights
                    change = update(GRANTS).values(rights=sorted(given - rights)) if given - rights else delete(GRANTS)
                    connection.execute(change.where(GRANTS.c.id == row.id))
        return taken

    def delete(self, plugin: str) -> int:
        """Take all grants from a plugin.

        Returns:
            How many there were.
        """
        with self._database.begin() as connection:
            return connection.execute(delete(GRANTS).where(GRANTS.c.plugin == plugin)).rowcount


def _grant(row: Row[Any]) -> StoredGrant:
    values = dict(row._mapping)
    del values["id"]
    return StoredGrant(**(values | {"rights": frozenset(values["rights"])}))
