"""Event models, their CloudEvents encoding, and the table of topics."""
