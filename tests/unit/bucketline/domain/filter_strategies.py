"""Documents and filters for property-based tests: few fields and few letters, so that they often meet."""

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from bucketline.domain.safe_regex import UnsafePattern, translate

START = datetime(2026, 1, 1, tzinfo=UTC)
LETTERS = "aAbsſSkKKßẞiIİıéÉÆæΣσςжЖ𐐀𐐨 -_.,·“”中🎉1\n\0"

TEXTS = st.text(alphabet=LETTERS, max_size=5) | st.sampled_from(
    ["red", "Red", "RED", "red apple", "Red, apple!", "a\\z", "a.b", "[x]", "(", "$", "^a", "DRAFT"]
)
NUMBERS = st.integers(-2, 2) | st.sampled_from([0.5, -0.0, 1.0, 2**53, 2**53 + 1, float(2**53), 2**63 - 1, 1e300])
SCALARS: st.SearchStrategy[Any] = st.none() | st.booleans() | NUMBERS | TEXTS
INNER = st.dictionaries(st.sampled_from("xy"), SCALARS | st.lists(SCALARS, max_size=2), max_size=2)
VALUES = SCALARS | INNER | st.lists(SCALARS | INNER | st.lists(SCALARS, max_size=2), max_size=3)
CUSTOM = st.dictionaries(st.sampled_from(["a", "b", "metadata", "list"]), VALUES, max_size=4)

SECONDS = st.integers(0, 4)
FIELDS = st.sampled_from(
    ["a", "b", "metadata", "metadata.x", "list", "list.x", "list.0", "list.1.x", "list.0.0", "a.x.y", "status",
     "created_at", "object_id"]
)  # fmt: skip
DATES = SECONDS.map(lambda n: (START + timedelta(seconds=n)).isoformat()) | st.sampled_from(
    ["2026-01-01", "2026-01-01T01:00:02+01:00", "2026-01-01T00:00:02.0004Z", "2026-01-01 00:00"]
)


def _accepted(pattern: str) -> bool:
    try:
        translate(pattern, case_sensitive=False)
    except UnsafePattern:
        return False
    return True


PATTERNS = st.sampled_from(
    ["", "a", "^a", "a$", "^$", ".", "^.$", "s", "k", "[a-z]", "[^a-z]", r"\w", r"\W", r"[\W]", r"\d+", r"\s",
     r"\bred\b", r"\Ba", "(red|a)", "(?:ab)?s", "a{2}", "s{1,2}i*", "[ſK]", "[À-ɏ]", r"\$|\(|\^", "é", "[Σ-ω]+",
     "(ab){2}", r"\\z", "[-a]"]
) | st.text(alphabet="absé^$.|()[]{}*+?\\dwWSbB-,12", max_size=10).filter(_accepted)  # fmt: skip


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """An object as it is stored, without its ``_id``."""
    moment = START + timedelta(seconds=draw(SECONDS))
    return {
        "status": draw(st.sampled_from(["DRAFT", "QUEUED"])),
        "created_at": moment,
        "custom": draw(CUSTOM),
    }


@st.composite
def conditions(draw: st.DrawFn) -> dict[str, Any]:
    """A condition as JSON."""
    field = draw(FIELDS)
    operator = draw(
        st.sampled_from(
            ["eq", "ne", "gt", "lt", "gte", "lte", "in", "nin", "contains", "starts_with", "ends_with", "regex",
             "exists", "is_null", "text", "phrase", "words"]
        )
    )  # fmt: skip
    texts = DATES if field == "created_at" else TEXTS
    scalars = st.none() | st.booleans() | NUMBERS | texts
    match operator:
        case "eq" | "ne":
            value = draw(scalars)
        case "in" | "nin":
            value = draw(st.lists(scalars, max_size=4))
        case "gt" | "lt" | "gte" | "lte":
            value = draw(NUMBERS | texts)
        case "contains":
            value = draw(st.booleans() | NUMBERS | TEXTS)
        case "regex":
            value = draw(PATTERNS)
        case "exists" | "is_null":
            value = draw(st.booleans() | st.none())
        case "phrase" | "words":
            value = draw(TEXTS.filter(lambda text: any(c.isalnum() for c in text)))
        case _:
            value = draw(TEXTS)
    condition = {"field": field, "operator": operator, "value": value}
    if draw(st.booleans()):
        condition["case_sensitive"] = draw(st.booleans())
    return condition


def _groups(entries: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    lists = st.none() | st.lists(entries, max_size=3)
    return st.fixed_dictionaries(
        {},
        optional={
            "AND": lists,
            "OR": lists,
            "NOT": lists,
            "case_sensitive": st.booleans(),
            "a": SCALARS,
            "list.x": SCALARS,
        },
    )


FILTERS = st.recursive(conditions(), _groups, max_leaves=4)


def field_path(field: str) -> str:
    """As the object routes map the wire's names."""
    if field == "object_id":
        return "_id"
    return field if field in ("status", "created_at") else f"custom.{field}"
