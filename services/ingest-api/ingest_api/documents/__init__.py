"""Use cases of documents: reading, listing, deleting."""
