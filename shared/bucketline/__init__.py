"""Bucketline: self-hosted, event-driven object ingestion.

The library shared by the four services. Layers, each importing only those above it:

- ``domain``       rules, no I/O
- ``events``       what is said on the bus, no I/O
- ``telemetry``    traces, metrics, logs, health
- ``extraction``   the interface of extractors
- ``outbound``     requests to addresses that strangers named
- ``storage``      MongoDB and S3, behind repositories and one Protocol
- ``messaging``    Kafka: the broker, the one way a record is handled, the outbox, parking
- ``access``       API keys
- ``maintenance``  what an operator or a schedule runs: garbage collection, replay, doctor
- ``local``        real servers on a bare machine
- ``cli``          the ``bucketline`` command

Beside them stand modules: ``errors``, ``settings``, ``clock`` and ``ids``, which any layer may import, and
``background``, ``runtime`` and ``serve``, of which a service is made.
"""

__version__ = "0.1.0"
