"""Routes for operators: an overview, the backlog and dead letters."""
