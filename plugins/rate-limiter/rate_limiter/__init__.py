"""Lets each key make so many requests in a sliding window."""
