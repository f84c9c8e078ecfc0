"""Use cases of documents: reading, listing, changing, deleting."""
