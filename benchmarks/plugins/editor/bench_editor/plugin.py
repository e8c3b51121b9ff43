# mypy: ignore-errors
# Written as most plugins are: plain, without annotations.
"""Edit the benchmark's request."""

from bench_probe import Probe

from annexe_sdk import Plugin

plugin = Plugin()
plugin.extension("bench-probe")(Probe)


@plugin.filter("bench.edit")
def edit(request):
    """Count, and move the last message's first letter to its end."""
    request["edits"] += 1
    last = request["messages"][-1]
    last["content"] = last["content"][1:] + last["content"][0]
    return request


@plugin.extension("bench-editor")
class Editor:
    """The same edit as one typed call."""

    def edit(self, request):
        return edit(request)


if __name__ == "__main__":
    plugin.run()
