"""API keys and their management over HTTP."""
