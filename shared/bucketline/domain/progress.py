"""How far something is."""


def percent(processed: int, total: int) -> float:
    """With two digits, rounded down: 100 means that nothing is left. Of nothing, all is done."""
    return min(10_000, 10_000 * processed // total) / 100 if total else 100.0
