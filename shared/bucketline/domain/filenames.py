"""File names that are safe to store, to show and to put into a header."""

import re
import unicodedata

MAX_FILENAME_BYTES = 255


def safe_filename(name: str | None) -> str | None:
    """The last part of ``name`` that any file system and any header can carry; None when nothing is left.

    At most 255 bytes of UTF-8, the extension kept; no separators, control or direction characters, no leading
    dots, no characters that Windows refuses.
    """
    if not name:
        return None
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name))[-1]
    kept = "".join(c for c in last if unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
    kept = re.sub(r'[<>:"|?*]', "_", kept).lstrip(". ").rstrip(". ")
    if not kept:
        return None
    stem, dot, extension = kept.rpartition(".")
    if not stem or len(extension.encode()) > 16:
        stem, dot, extension = kept, "", ""
    room = MAX_FILENAME_BYTES - len((dot + extension).encode())
    return stem.encode()[:room].decode(errors="ignore").rstrip(". ") + dot + extension
