"""The walk through the code in the library's README names files that exist."""

import re
from pathlib import Path

import bucketline

README = Path(bucketline.__file__).parent / "README.md"


def test_walk_links_at_most_20_files_that_exist() -> None:
    steps = re.findall(r"^\d+\. \[`[^`]+`\]\(([^)]+)\)", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert 10 <= len(set(steps)) == len(steps) <= 20
    assert [step for step in steps if not (README.parent / step).is_file()] == []
