"""One line of the result: a measured value, and the raw limit it is compared with."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Row:
    """``baseline`` is a raw limit measured in the same run; ``ratio`` is value / baseline."""

    name: str
    value: float
    unit: str
    beside: str | None = None
    baseline: float | None = None

    @property
    def ratio(self) -> float | None:
        return self.value / self.baseline if self.baseline else None

    def as_json(self) -> dict[str, object]:
        return {**asdict(self), "ratio": self.ratio}
