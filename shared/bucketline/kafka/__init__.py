"""Kafka: the broker, middlewares, the transactional outbox and dead letters."""
