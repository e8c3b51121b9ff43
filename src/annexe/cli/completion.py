"""``annexe completion``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

__all__ = ["completion"]


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what makes a shell complete commands, options and plugin ids.

    \b
    bash: eval "$(annexe completion bash)"          in ~/.bashrc
    zsh:  eval "$(annexe completion zsh)"           in ~/.zshrc
    fish: annexe completion fish | source           in ~/.config/fish/config.fish
    """  # noqa: D301 - the escape is a real one: click lays out what follows it line by line
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, "annexe", "_ANNEXE_COMPLETE").source())
