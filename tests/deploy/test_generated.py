"""One source of truth: what follows from code is committed as the code renders it now."""

from pathlib import Path

import pytest
from deploy.k8s import generate


def test_committed_manifests_match_the_generator() -> None:
    assert generate.stale() == [], "run python -m deploy.k8s.generate and commit"


@pytest.mark.parametrize("name", sorted(generate.rendered()))
def test_a_change_by_hand_is_noticed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for other, text in generate.rendered().items():
        (tmp_path / other).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / other).write_text(text, encoding="utf-8")
    monkeypatch.setattr(generate, "FOLDER", tmp_path)
    assert generate.stale() == []
    with (tmp_path / name).open("a", encoding="utf-8") as file:
        file.write("# a word more\n")
    assert generate.stale() == [name]
