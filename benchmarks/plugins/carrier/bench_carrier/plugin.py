# mypy: ignore-errors
# Written as most plugins are: plain, without annotations.
"""Take bytes, give bytes."""

from bench_probe import Probe

from annexe_sdk import Plugin

plugin = Plugin()
plugin.extension("bench-probe")(Probe)


@plugin.extension("bench-carrier")
class Carrier:
    """The three ways that bytes can go."""

    def __init__(self):
        self.kept = b""

    def take(self, data):
        """Take bytes; tell enough of them to show that they came."""
        return [len(data), data[0], data[-1]]

    def give(self, size):
        """Give bytes; what was asked for last is kept, so that making it is not measured."""
        if len(self.kept) != size:
            self.kept = bytes(range(256)) * (size // 256)
        return self.kept

    def echo(self, data):
        """Give back what came."""
        return data

    def pass_on(self, data: memoryview):
        """Give back what came, looked at where it lies."""
        return data


if __name__ == "__main__":
    plugin.run()
