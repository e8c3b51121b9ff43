# mypy: ignore-errors
# Written as most plugins are: plain, without annotations.
"""Do the same work for the application and for other plugins."""

from bench_probe import Probe

from annexe_sdk import Plugin

plugin = Plugin()
plugin.extension("bench-probe")(Probe)


@plugin.extension("bench-editor")
@plugin.service("bench-editing")
class Editor:
    """Edit the benchmark's request, or give back bytes."""

    def edit(self, request):
        """Count, and move the last message's first letter to its end."""
        request["edits"] += 1
        last = request["messages"][-1]
        last["content"] = last["content"][1:] + last["content"][0]
        return request

    def echo(self, data):
        return data


@plugin.extension("bench-carrier")
class Carrier:
    """Bytes, for the application."""

    def take(self, data):
        return [len(data), data[0], data[-1]]

    def give(self, size):
        return bytes(size)

    def echo(self, data):
        return data

    def pass_on(self, data: memoryview):
        return data


if __name__ == "__main__":
    plugin.run()
