# mypy: ignore-errors
# Written as most plugins are: plain, without annotations.
"""Call another plugin's service, and time that where it is felt: from the line before the call to the line after."""

import os
import time

from bench_probe import Probe

from annexe_sdk import Plugin

plugin = Plugin()
plugin.extension("bench-probe")(Probe)


@plugin.extension("bench-caller")
class Caller:
    """One method a row; microseconds of each call."""

    def edits(self, request, count, ctx):
        """Have the request edited again and again: each call gets what the last one gave."""
        clock, editing, samples = time.perf_counter_ns, ctx.service("bench-editing"), []
        first = request["edits"]
        for number in range(count):
            began = clock()
            request = editing.edit(request)
            samples.append((clock() - began) / 1000)
            if request["edits"] != first + number + 1:
                raise RuntimeError(f"expected {first + number + 1} edits, got {request['edits']}")
        return samples

    def echoes(self, size, count, ctx):
        clock, editing, samples, data = time.perf_counter_ns, ctx.service("bench-editing"), [], os.urandom(size)
        for _ in range(count):
            began = clock()
            got = editing.echo(data)
            samples.append((clock() - began) / 1000)
            if got != data:
                raise RuntimeError(f"expected the {size} bytes that were sent, got {got!r:.80}")
        return samples


if __name__ == "__main__":
    plugin.run()
