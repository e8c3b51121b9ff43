"""Carry a hook call through the plugins that implement it: order, time, failure policy, extensions."""
