# mypy: ignore-errors
"""What the harness asks of every benchmark plugin before it measures; copied into the folder of each."""

import time

from annexe_sdk import PermissionDenied


class Probe:
    """Extension ``bench-probe``."""

    def request_id(self, ctx):
        return ctx.request_id

    def traceparent(self, ctx):
        return ctx.traceparent

    def reach(self, ctx):
        """Use a right that no benchmark plugin was granted."""
        try:
            return ctx.cap("bench-ledger").read()
        except PermissionDenied:
            return "denied"

    def stall(self, seconds):
        time.sleep(seconds)
        return "finished"
