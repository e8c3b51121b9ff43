"""What holds a plugin in: limits and rights as data, the walls made from them, and the receipt that says what was really enforced."""

from __future__ import annotations

from annexe.sandbox.levels import IsolationLevel, Walls, require_level
from annexe.sandbox.profile import Profile
from annexe.sandbox.receipt import Layer, Receipt, receipt_for

__all__ = ["IsolationLevel", "Layer", "Profile", "Receipt", "Walls", "receipt_for", "require_level"]
