"""Webhooks: events that are posted to receivers over HTTP."""
