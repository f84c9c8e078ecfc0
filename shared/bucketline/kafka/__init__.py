"""Kafka: safe defaults in ``broker``, the one way a record is handled in ``consume``, the rest around them."""
