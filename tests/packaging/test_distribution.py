"""What users install: the built wheel runs the demo from an empty folder, and its events need only pydantic."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path, timeout: float = 180) -> str:
    """Run a command without the environment of the checkout and return its output."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("BUCKETLINE_", "PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**clean, "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Wheel and sdist, built from the checkout."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-d", folder, cwd=ROOT)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return {"wheel": wheel, "sdist": sdist}


def new_environment(folder: Path, wheel: Path, libraries: Path | None) -> Path:
    """Create a virtual environment with the wheel and return its folder of programs.

    ``libraries`` is a folder in which the environment finds the dependencies, which are not installed again.
    """
    venv.create(folder, with_pip=False)
    programs = folder / "bin"
    pip = (sys.executable, "-m", "pip", "--python", programs / "python", "--disable-pip-version-check")
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    if libraries is not None:
        (site,) = folder.glob("lib/python*/site-packages")
        # after its own packages, so that the wheel is what is imported
        (site / "dependencies.pth").write_text(f"{libraries}\n", encoding="utf-8")
    return programs


def test_wheel_contains_the_packages_and_no_tests(distributions: dict[str, Path]) -> None:
    with zipfile.ZipFile(distributions["wheel"]) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "bucketline",
        "bucketline_ingest_api",
        "bucketline_dedup",
        "bucketline_batcher",
        "bucketline_processor",
        "bucketline_console",
    }
    assert not [name for name in names if "test" in Path(name).parts or name.endswith(".lock")]
    assert "bucketline/events/asyncapi.json" in names
    assert {"bucketline_console/templates/base.html", "bucketline_console/static/console.css"} <= set(names)


def test_sdist_builds_the_same_wheel(distributions: dict[str, Path], tmp_path: Path) -> None:
    with tarfile.open(distributions["sdist"]) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=source)
    (rebuilt,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(rebuilt) as again, zipfile.ZipFile(distributions["wheel"]) as first:
        assert {i.filename: i.CRC for i in again.infolist()} == {i.filename: i.CRC for i in first.infolist()}


@pytest.mark.stack
def test_installed_wheel_runs_the_demo_in_an_empty_folder(distributions: dict[str, Path], tmp_path: Path) -> None:
    libraries = Path(sysconfig.get_path("purelib"))
    programs = new_environment(tmp_path / "environment", distributions["wheel"], libraries)
    empty = tmp_path / "empty"
    empty.mkdir()
    imported = run(programs / "python", "-c", "import bucketline; print(bucketline.__file__)", cwd=empty)
    assert str(tmp_path) in imported
    output = run(programs / "bucketline", "demo", cwd=empty)
    assert output.count("COMPLETED") == 5, output
    assert "FAILED" not in output


def test_event_models_need_only_pydantic(distributions: dict[str, Path], tmp_path: Path) -> None:
    programs = new_environment(tmp_path / "environment", distributions["wheel"], None)
    (site,) = (tmp_path / "environment").glob("lib/python*/site-packages")
    libraries = Path(sysconfig.get_path("purelib"))
    for name in ("pydantic", "pydantic_core", "annotated_types", "typing_inspection", "typing_extensions.py"):
        (site / name).symlink_to(libraries / name)
    script = (
        "from bucketline.events.models import ObjectCreated\n"
        "print(ObjectCreated.model_json_schema()['title'])\n"
        "import sys; assert 'orjson' not in sys.modules"
    )
    assert run(programs / "python", "-c", script, cwd=tmp_path).split() == ["ObjectCreated"]
