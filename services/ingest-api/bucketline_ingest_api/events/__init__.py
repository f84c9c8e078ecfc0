"""The feed of events, as pages and as a stream."""
