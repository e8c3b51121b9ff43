# mypy: ignore-errors
# Written as most plugins are: plain, without annotations.
"""Observe: take the request in and keep a word of it."""

from bench_probe import Probe

from annexe_sdk import Plugin

plugin = Plugin()
plugin.extension("bench-probe")(Probe)
last = {}


@plugin.observer("bench.seen")
def seen(request):
    """Note whose request it was."""
    last["user"] = request["user"]


if __name__ == "__main__":
    plugin.run()
