"""Use cases of batches: drafted and submitted here, carried out by the batcher."""
