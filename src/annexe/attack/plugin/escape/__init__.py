"""The attacks of ``annexe attack``: a plugin that tries to get out.

Nothing in this package is imported by a host. Standard library alone; every attack is bounded and tidies up behind itself, because it also
runs where nothing stops it.

Source: feature IS10.
"""
