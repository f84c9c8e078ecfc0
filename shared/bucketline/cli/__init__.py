"""The ``bucketline`` command."""
