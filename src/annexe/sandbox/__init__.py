"""What holds a plugin in: limits as data, the stub that applies them, and the receipt that says what was really enforced.

Level ``limits`` is what exists; stronger layers go between the profile and the stub without changing either's shape.
"""

from __future__ import annotations

from annexe.sandbox.levels import IsolationLevel, require_level
from annexe.sandbox.profile import Profile
from annexe.sandbox.receipt import Layer, Receipt, receipt_for

__all__ = ["IsolationLevel", "Layer", "Profile", "Receipt", "receipt_for", "require_level"]
