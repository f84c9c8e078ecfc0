"""The batcher: decides when objects are processed, in which units, and when a batch is finished."""
