"""Namespaces: the unit of isolation."""
