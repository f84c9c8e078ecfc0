"""One source of truth: what follows from code is committed as the code renders it now."""

from pathlib import Path

from deploy.k8s import generate


def test_committed_files_match_the_generator() -> None:
    files = {**generate.manifests(), **generate.chart()}
    assert generate.stale(files) == [], "run python -m deploy.k8s.generate and commit"


def test_a_change_by_hand_is_noticed(tmp_path: Path) -> None:
    files = {tmp_path / path.name: text for path, text in generate.manifests().items()}
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
    assert generate.stale(files) == []
    changed = next(iter(files))
    changed.write_text("# by hand\n", encoding="utf-8")
    assert generate.stale(files) == [changed]


def test_missing_file_is_stale(tmp_path: Path) -> None:
    assert generate.stale({tmp_path / "absent.yaml": ""}) == [tmp_path / "absent.yaml"]
