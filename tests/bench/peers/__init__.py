"""What a competent developer writes by hand for the same job, measured beside Bucketline.

Each peer accepts an object over HTTP, stores it in MongoDB with majority write concern, hashes its blob, stores the
blob once in S3, writes one result document and marks the object COMPLETED. They share ``job.py`` and have their own
requirements, installed into an environment of their own.
"""
