"""The local stack: real MongoDB, Kafka and S3 servers on the loopback, without Docker and without installing anything.

- ``downloads`` fetches the servers' binaries into a cache and verifies them,
- ``reservations`` keeps two stacks on one machine from using the same ports or data,
- ``process`` runs a child process that cannot outlive its parent (``exec_with_parent``),
- ``servers`` knows how to start MongoDB, Tansu, Apache Kafka and SeaweedFS,
- ``supervisor`` restarts what ends unexpectedly and runs the four services,
- ``stack`` starts the three servers together and gives their addresses.
"""
