"""Documents: read, list, update, delete, expand."""
