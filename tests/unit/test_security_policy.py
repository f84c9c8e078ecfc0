"""The threat model names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_threat_model_names_existing_tests() -> None:
    rows = [line for line in (ROOT / "SECURITY.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    threats = rows[1:]
    assert len(threats) >= 10
    for threat in threats:
        named = re.findall(r"`(tests/[\w/]+\.py)`", threat)
        assert named, f"no test is named: {threat}"
        assert [name for name in named if not (ROOT / name).is_file()] == []
