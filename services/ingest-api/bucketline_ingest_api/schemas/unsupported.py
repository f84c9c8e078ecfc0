"""Fields of the contract for what this deployment does not do: refused, because ignoring them would be a false promise.

A client may write null, false, or an empty object or list where it asks for nothing. Official clients do so unasked.
"""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator


def _nothing(value: object) -> object:
    return None if value is False or value in ({}, []) else value


def _refused(value: object) -> object:
    if value:
        raise ValueError("this is not supported here: leave it out")
    return value


Unsupported = Annotated[None, BeforeValidator(_nothing)]
"""A field of a body that must be absent, null, false or empty."""

UnsupportedFlag = Annotated[bool | None, AfterValidator(_refused)]
UnsupportedText = Annotated[str | None, AfterValidator(_refused)]
"""Parameters of the query that must be absent, or false and empty."""
