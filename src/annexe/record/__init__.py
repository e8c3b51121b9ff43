"""What happened: logs, captured output, events, what plugins did to requests, figures.

Each is bounded in memory and on disk, costs the caller next to nothing, and believes nothing a plugin says about itself.
"""

from annexe.record.bucket import TokenBucket
from annexe.record.capture import PipeCapture
from annexe.record.events import Event, EventKind, Events
from annexe.record.explain import Explain, Outcome, RequestRecord
from annexe.record.logs import LogLimits, LogStore, PluginLog
from annexe.record.metrics import MethodFigures, Metrics, PluginMetrics
from annexe.record.prometheus import as_prometheus_text
from annexe.record.tail import read_tail

__all__ = [
    "Event",
    "EventKind",
    "Events",
    "Explain",
    "LogLimits",
    "LogStore",
    "MethodFigures",
    "Metrics",
    "Outcome",
    "PipeCapture",
    "PluginLog",
    "PluginMetrics",
    "RequestRecord",
    "TokenBucket",
    "as_prometheus_text",
    "read_tail",
]
