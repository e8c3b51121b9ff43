"""A web application of blocking code, with plugins."""
