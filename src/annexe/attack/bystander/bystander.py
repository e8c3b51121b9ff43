"""A plugin that does nothing but keep a secret and answer."""

from __future__ import annotations

from annexe_sdk import Context, Plugin

__all__ = ["Bystander", "plugin"]

plugin = Plugin()


@plugin.extension("bystander")
class Bystander:
    """Answers."""

    def keep(self, secret: str, ctx: Context) -> None:
        """Put a secret into the store."""
        ctx.kv.set("secret", secret)

    def ping(self) -> str:
        """Say that all is well."""
        return "well"


if __name__ == "__main__":
    plugin.run()
