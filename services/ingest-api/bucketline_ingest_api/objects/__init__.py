"""Objects: create, read, list, update, delete, aggregate."""
