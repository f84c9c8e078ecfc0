"""How buckets, keys and file names are written in URLs."""

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from bucketline.blobs.store import BlobStoreError


@dataclass(frozen=True, slots=True)
class S3UrlBuilder:
    """Where a bucket's keys are on one endpoint: ``host/bucket/key``, or ``bucket.host/key`` if ``virtual``."""

    endpoint: str
    bucket: str
    virtual: bool

    def url(self, key: str) -> str:
        """Percent-encoded once, exactly as the signature covers it; send it as it is."""
        parts = urlsplit(self.endpoint)
        base, path = parts.path.rstrip("/"), quote(key, safe="/~-._")
        if self.virtual:
            return f"{parts.scheme}://{self.bucket}.{parts.netloc}{base}/{path}"
        return f"{parts.scheme}://{parts.netloc}{base}/{self.bucket}/{path}"


def split_s3_url(url: str) -> tuple[str, str]:
    """Bucket and key of ``s3://bucket/key``; the key is taken literally and may be empty."""
    scheme, separator, rest = url.partition("://")
    if scheme.lower() != "s3" or not separator:
        raise BlobStoreError("not an s3:// URL")
    bucket, _, key = rest.partition("/")
    return bucket, key


def content_disposition(filename: str) -> str:
    """``Content-Disposition`` that saves under ``filename``, in any script, with a plain spelling for old clients."""
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\' else "_" for c in filename)
    if plain == filename:
        return f'attachment; filename="{plain}"'
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"


def truncated_names(filename: str | None) -> Iterator[str | None]:
    """The name, then the name cut more and more but with its extension, then none."""
    if filename:
        stem, dot, extension = filename.rpartition(".")
        if not dot or len(extension) > 16:
            stem, dot, extension = filename, "", ""
        for length in (255, 128, 64, 32, 16):
            yield f"{stem[:length]}{dot}{extension}"
    yield None
