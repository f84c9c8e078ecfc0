"""API keys: how they look, how they are stored, and what an administrator does with them."""
