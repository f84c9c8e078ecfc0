"""Bucketline: self-hosted, event-driven object ingestion.

The library shared by the four services. Layers, each importing only those above it:

- ``domain``      rules, no I/O
- ``events``      what is said on the bus, no I/O
- ``storage``     MongoDB and S3, behind repositories and one Protocol
- ``messaging``   Kafka: the broker, the one way a record is handled, the outbox, parking
- ``telemetry``   traces, metrics, logs, health
- ``local``       real servers on a bare machine
- ``cli``         the ``bucketline`` command
"""

__version__ = "0.1.0"
