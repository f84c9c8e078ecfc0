"""Collections: turn objects of buckets, or documents of other collections, into documents."""
