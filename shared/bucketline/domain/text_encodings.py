"""Text encodings by the names that content is declared with.

Labels and decoders are those of the WHATWG Encoding Standard, which browsers follow: ``iso-8859-1`` means windows-1252
and ``gb2312`` means GBK. Labels that the standard does not have are looked up among Python's codecs, so that EBCDIC
(``cp037``) can be declared. Decoding never fails: a byte sequence that is not valid becomes U+FFFD.
"""

import codecs
import re
from encodings import normalize_encoding
from encodings.aliases import aliases
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_CHARSET = re.compile(r';\s*charset\s*=\s*(?:"([^"]{0,100})"|([^\s;,"]{1,100}))', re.IGNORECASE)

_PREFIX = "web_"
_UNICODE = {"UTF-8": "utf-8", "UTF-16LE": "utf-16-le", "UTF-16BE": "utf-16-be"}
_MULTI_BYTE = frozenset({"gbk", "gb18030", "big5", "euc_jp", "euc_kr", "shift_jis"})
_NO_TEXT = frozenset({"base64_codec", "bz2_codec", "hex_codec", "quopri_codec", "rot_13", "uu_codec", "zlib_codec"})
_PYTHON = frozenset(aliases.values()) - _NO_TEXT - {"mbcs"}


def charset_of(media_type: str | None) -> str | None:
    """Return the ``charset`` parameter of a media type; None when it has none or the charset is not known."""
    found = _CHARSET.search(media_type or "")
    label = (found[1] or found[2] or "").strip().lower() if found else ""
    return label if label and codec_of(label) else None


@cache
def codec_of(label: str) -> str | None:
    """Return the name of the codec for a label, for ``bytes.decode`` and ``open``; None for an unknown label.

    Browsers refuse to decode the labels of the *replacement* encoding. Python's codecs are used for those of them
    that it has.
    """
    from turbohtml import parse

    label = label.strip()
    try:
        name = parse(b"", encoding=label).encoding
    except LookupError:
        name = None
    if name in _UNICODE:
        return _UNICODE[name]
    if name is not None and name != "replacement":
        return _PREFIX.replace("_", "-") + name.lower()
    module = normalize_encoding(label).lower() if label.isascii() else ""
    module = aliases.get(module, module)
    return module if module in _PYTHON else None


def name_of(codec: str) -> str:
    """Return the name of an encoding as documents show it."""
    return codec.removeprefix("web-").removesuffix("-sig")


def decode_start(head: bytes, codec: str) -> str | None:
    """Decode the beginning of a longer text, strictly; None when it is not valid.

    A character that is cut in two at the end is left out.
    """
    for cut in range(min(4, len(head))):
        try:
            text = head[: len(head) - cut].decode(codec)
        except UnicodeDecodeError:
            continue
        if "\ufffd" not in text:
            return text
    return None


def _web_codec(name: str) -> codecs.CodecInfo | None:
    """Resolve ``web-*``: turbohtml's codec of that name, which decodes whole texts only, made to decode in parts."""
    if not name.startswith(_PREFIX):
        return None
    import turbohtml.detect  # noqa: F401  # registers the whatwg-* codecs

    encoding = name.removeprefix(_PREFIX)
    whole = codecs.lookup(f"whatwg_{encoding}")

    class Decoder(codecs.BufferedIncrementalDecoder):
        def _buffer_decode(self, data: "ReadableBuffer", errors: str, final: bool) -> tuple[str, int]:
            content = bytes(data)
            end = len(content) if final else _boundary(content, encoding)
            return whole.decode(content[:end], errors)[0], end

    return codecs.CodecInfo(whole.encode, whole.decode, incrementaldecoder=Decoder, name=name.replace("_", "-"))


def _boundary(data: bytes, encoding: str) -> int:
    """Return where ``data`` can be cut without changing what its parts decode to."""
    if encoding == "iso_2022_jp":
        return data.rfind(b"\x1b(B") + 3 if b"\x1b(B" in data else 0
    if encoding not in _MULTI_BYTE:
        return len(data)
    # in none of these encodings is a byte below 0x30 the second half of a character
    return next((place for place in range(len(data), 0, -1) if data[place - 1] < 0x30), 0)


codecs.register(_web_codec)
