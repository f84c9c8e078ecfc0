"""What the services depend on, looked at from here: reachable, right version, right permissions, right clock."""
