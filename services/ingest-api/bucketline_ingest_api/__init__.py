"""The HTTP API: stores objects of producers durably and publishes their events."""
