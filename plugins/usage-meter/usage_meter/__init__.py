"""Counts requests, tokens and cost for each key and model."""
