"""Uploads: presigned URLs, their confirmation, and the objects created from them."""
