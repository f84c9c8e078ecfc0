"""Batches: objects that are processed together."""
