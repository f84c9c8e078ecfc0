"""Blob storage in S3."""
