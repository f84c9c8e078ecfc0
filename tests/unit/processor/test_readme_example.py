"""What the README teaches, done as it says: its code blocks are the package that is tested here."""

import importlib.util
import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from bucketline.extractors import (
    BlobView,
    ExtractionContext,
    ExtractorRegistry,
    MemorySource,
    ObjectView,
    validate_parameters,
)
from bucketline_ingest_api.collections.schemas import CreateCollection
from bucketline_processor.extractors.http import sign
from bucketline_processor.worker_pool import WorkerPool

README = Path(__file__).parents[3] / "services" / "processor" / "README.md"
BLOCK = re.compile(r"^```\w+\n# (?P<path>\S+\.(?:py|toml))\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The README's files, and the metadata that ``pip install`` would make of its ``pyproject.toml``."""
    for block in BLOCK.finditer(README.read_text()):
        path = tmp_path / block["path"]
        path.parent.mkdir(exist_ok=True)
        path.write_text(block["code"])
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text())["project"]
    info = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        line
        for group, entries in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_readme_example_passes_its_own_test(package: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "-p", "no:cacheprovider", str(package / "tests")],
        cwd=package,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


async def test_readme_example_runs_in_a_worker_process(package: Path, tmp_path: Path) -> None:
    registry = ExtractorRegistry()
    assert "keyword_extractor_v1" in {info.id for info in registry.infos()}
    info = registry.find("keyword_extractor", "v1").info

    content = b"one fish two fish red fish blue fish and one more"
    blob = BlobView("b", "note", "text", "a.txt", "text/plain", len(content), None, MemorySource(content))
    context = ExtractionContext(validate_parameters(info, {"top": 1}))
    async with WorkerPool(workers=1, temp_dir=tmp_path / "tmp") as sandbox:
        obj = ObjectView("o", "b", "n", blobs=(blob,))
        found = [document async for document in sandbox.run(info.id, obj, context)]
    assert [document.fields for document in found] == [{"keywords": ["fish"], "words": 11}]


def test_readme_collection_is_valid(package: Path) -> None:
    [told] = re.findall(r"^```json\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)
    collection = CreateCollection.model_validate_json(told)
    config = collection.feature_extractor
    info = ExtractorRegistry().find(config.feature_extractor_name, config.version).info
    assert validate_parameters(info, config.parameters or {}) == {"top": 3}


def test_readme_signature_check_accepts_only_our_signature(package: Path) -> None:
    spec = importlib.util.spec_from_file_location("check_signature", package / "check_signature.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    header = sign("secret", b"body", time.time())
    assert module.is_ours("secret", b"body", header)
    assert not module.is_ours("secret", b"other", header)
    assert not module.is_ours("secret", b"body", sign("secret", b"body", time.time() - 1000))


def test_readme_table_names_every_built_in_extractor() -> None:
    text, registry = README.read_text(), ExtractorRegistry()
    own = [
        info for info in registry.infos() if type(registry.get(info.id)).__module__.startswith("bucketline_processor.")
    ]
    assert len(own) >= 7
    for info in own:
        assert f"| `{info.name}` |" in text
