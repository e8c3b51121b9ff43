"""Misbehaves on command."""
