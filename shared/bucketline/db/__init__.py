"""State: MongoDB behind one repository a noun, S3 behind the ``BlobStore`` Protocol.

``mongo`` is the only module that imports motor and ``s3`` the only one that imports aioboto3.
"""
