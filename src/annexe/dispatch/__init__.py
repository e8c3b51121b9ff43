"""Carry calls, services and events between the application and plugins, and from plugin to plugin; and know who requires whom."""
