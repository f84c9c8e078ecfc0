"""``make bench``: what the pipeline does beside the raw limits of its parts, in one run on one machine."""
