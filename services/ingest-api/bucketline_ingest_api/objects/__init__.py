"""Use cases of objects, one module each: create, create_batch, read, change, remove.

``draft`` checks what a producer sent, ``blobs`` turns its blobs into stored ones, ``writes`` shares round trips, and
``render`` shows an object as the contract wants it.
"""
