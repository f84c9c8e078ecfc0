"""Buckets: containers of objects with a schema."""
