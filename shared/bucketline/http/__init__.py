"""Outbound requests to URLs from producers, protected against SSRF."""
