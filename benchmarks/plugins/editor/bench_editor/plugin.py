# mypy: ignore-errors
# Written as most plugins are: plain, without annotations.
"""Edit the benchmark's request, and let the harness see that the host's guards are on."""

import time

from annexe_sdk import Plugin

plugin = Plugin()


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


@plugin.extension("bench-probe")
class Probe:
    """What the harness asks before it measures."""

    def request_id(self, ctx):
        return ctx.request_id

    def reach(self, ctx):
        """Use a right that this plugin was not granted."""
        ctx.kv.get("anything")
        return "answered"

    def stall(self, seconds):
        time.sleep(seconds)
        return "finished"


if __name__ == "__main__":
    plugin.run()
