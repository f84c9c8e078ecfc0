"""Traces, metrics, logs and health. Every metric's name is in ``metrics``."""
