"""State in MongoDB: one repository per resource.

Only ``mongo`` imports motor. Services use the methods of repositories and never a collection.
"""
