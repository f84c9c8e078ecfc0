"""Bucketline: self-hosted, event-driven object ingestion.

The library shared by the four services. Layers, from the lowest to the highest; each imports only lower ones:

- ``domain``         rules, without I/O
- ``events``         event models, CloudEvents encoding and the table of topics, without I/O
- ``observability``  traces, metrics, logs, health
- ``extractors``     the extractor interface and registry
- ``http``           outbound requests that are protected against SSRF
- ``blobs``          the blob store and its S3 implementation
- ``db``             MongoDB repositories
- ``kafka``          broker, consumers, transactional outbox, dead letters
- ``admin``          API keys, garbage collection, event replay, diagnostics
- ``devstack``       real servers for development on a bare machine
- ``cli``            the ``bucketline`` command

Any layer may import the modules ``backoff``, ``errors``, ``settings``, ``clock`` and ``ids``. Services are built from
``periodic``, ``service_context`` and ``server``.
"""

__version__ = "0.1.0"
