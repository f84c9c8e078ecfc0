"""Use cases of uploads, one module each: create, confirm (one, many, in the background), read, remove, expire."""
