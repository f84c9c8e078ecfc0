"""Tasks: work that outlives its request. ``runner`` drives it, ``view`` shows it together with that of batches."""
