"""What the contract knows and this deployment does not do: refused, because ignoring it would be a false promise."""

from typing import Annotated

from pydantic import BeforeValidator


def _nothing(value: object) -> object:
    """Clients write an empty object or list where they mean nothing."""
    return None if value in ({}, []) else value


Unsupported = Annotated[None, BeforeValidator(_nothing)]
"""A field that must be absent, null or empty."""
