"""The dependencies have wheels for every Python version and platform in the README. Run with ``-m platforms``."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
VERSIONS = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
PLATFORMS = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_28", "aarch64-apple-darwin")


@pytest.mark.platforms
@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("version", VERSIONS)
def test_dependencies_resolve_with_wheels_alone(version: str, platform: str, request: pytest.FixtureRequest) -> None:
    if "platforms" not in request.config.getoption("markexpr"):
        pytest.skip("asks the package index for every dependency; select it with -m platforms")
    command = [str(Path(sys.executable).parent / "uv"), "pip", "compile", "--quiet", "--only-binary", ":all:"]
    command += ["--python-version", version, "--python-platform", platform, str(ROOT / "pyproject.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert "\naiokafka==" in done.stdout


def test_classifiers_start_with_the_oldest_supported_version() -> None:
    assert PROJECT["requires-python"] == f">={VERSIONS[0]}"
