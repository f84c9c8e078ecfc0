"""Use cases of namespaces, one module each: create, read, change, delete."""
