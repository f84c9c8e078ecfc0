"""Mirrors blobs of objects into S3, once per content."""
