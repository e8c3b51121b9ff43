"""Answers chat requests that were answered before."""
