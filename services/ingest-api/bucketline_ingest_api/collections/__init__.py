"""Use cases of collections, one module each: create, change, delete, trigger, listing."""
