"""Work that is done now and then, by an operator or on a schedule, beside the services."""
