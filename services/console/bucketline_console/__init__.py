"""The web console: server-rendered pages, a client of the HTTP API only."""
