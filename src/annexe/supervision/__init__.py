"""Keeping plugins alive: rules (``state``, ``restart``, ``health``, ``scaling``: pure) and the supervisor that applies them."""
