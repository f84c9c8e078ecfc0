"""What is said on the bus: the catalog of events, their envelope, and the table of topics."""
