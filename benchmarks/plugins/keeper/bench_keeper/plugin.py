# mypy: ignore-errors
# Written as most plugins are: plain, without annotations.
"""Time key-value calls where a plugin feels them: from the line before ``ctx.kv`` to the line after."""

import time

from bench_probe import Probe

from annexe_sdk import Plugin

plugin = Plugin()
plugin.extension("bench-probe")(Probe)
VALUE = {"note": "a value of some length, as plugins keep them", "count": 1, "tags": ["a", "b"]}


def timed(count, call):
    """Return the microseconds of ``call(number)`` for each number below count."""
    clock = time.perf_counter_ns
    samples = []
    for number in range(count):
        began = clock()
        call(number)
        samples.append((clock() - began) / 1000)
    return samples


@plugin.extension("bench-keeper")
class Keeper:
    """One method a row."""

    def fill(self, count, ctx):
        for number in range(count):
            ctx.kv.set(f"key-{number:06}", VALUE)
        return count

    def get(self, first, count, ctx):
        """Read ``count`` different keys, each of them once."""

        def call(number):
            if ctx.kv.get(f"key-{first + number:06}") != VALUE:
                raise RuntimeError(f"key-{first + number:06} does not hold what was set")

        return timed(count, call)

    def set(self, count, ctx):
        return timed(count, lambda number: ctx.kv.set("written", {**VALUE, "count": number}))

    def swap(self, count, ctx):
        ctx.kv.set("swapped", 0)
        return timed(count, lambda number: ctx.kv.compare_and_set("swapped", number, number + 1))

    def add(self, count, ctx):
        """Add one to a key shared by all writers, that many times, by compare-and-set."""
        for _ in range(count):
            while True:
                before = ctx.kv.get("shared")
                if ctx.kv.compare_and_set("shared", before, (before or 0) + 1):
                    break
        return count

    def shared(self, ctx):
        return ctx.kv.get("shared") or 0

    def polite(self, count, ctx):
        """Write now and then, as a plugin does that has other things to do."""

        def call(number):
            ctx.kv.set("polite", {**VALUE, "count": number})

        samples = []
        for _ in range(count):
            samples += timed(1, call)
            time.sleep(0.002)
        return samples

    def flood(self, seconds, ctx):
        """Write as fast as the host lets it; return how many writes it took and how many it refused."""
        until = time.monotonic() + seconds
        taken = refused = 0
        while time.monotonic() < until:
            try:
                ctx.kv.set(f"flood-{taken % 1000}", VALUE)
                taken += 1
            except Exception:
                refused += 1
        return [taken, refused]


if __name__ == "__main__":
    plugin.run()
