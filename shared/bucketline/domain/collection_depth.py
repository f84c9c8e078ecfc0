"""How far collections read each other: tier after tier, the first reads a bucket."""

MAX_TIERS = 10
"""Tiers that a collection may be made in. A deeper one is refused."""

TIERS_FOLLOWED = 16
"""Tiers that whoever goes from collection to collection looks at, so that it ends even if they form a circle. More than
:data:`MAX_TIERS`: what can be made is followed to its end.
"""
