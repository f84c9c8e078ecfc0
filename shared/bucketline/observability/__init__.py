"""Traces, metrics, logs and health probes."""
