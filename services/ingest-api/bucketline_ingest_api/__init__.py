"""The HTTP API: takes what producers send, keeps it durably, and tells the others."""
