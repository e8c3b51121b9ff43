"""Estimates how many tokens a text has for a language model."""
