"""Use cases of buckets, one module each: create, change, delete, listing; ``counts`` tells what is in them."""
