"""Keeping plugins alive: rules (``state``, ``restart``, ``health``: pure) and the supervisor that applies them."""
