"""The image: pinned, checked against hashes, without an installer, as a user that is not root."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tests.deploy.rendering import DEPLOY, ROOT, containers, pods

from bucketline.settings import SERVICES

LINES = [
    line
    for line in (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    if line and not line.startswith("#")
]


def instructions(name: str, stage: list[str]) -> list[str]:
    return [line.partition(" ")[2].strip() for line in stage if line.startswith(f"{name} ")]


def stages() -> list[list[str]]:
    starts = [i for i, line in enumerate(LINES) if line.startswith("FROM ")]
    return [LINES[start:end] for start, end in zip(starts, [*starts[1:], len(LINES)], strict=True)]


def test_base_image_is_pinned_by_tag_and_digest() -> None:
    base = instructions("ARG", LINES)[0]
    assert re.fullmatch(r"PYTHON=python:3\.11\.\d+-slim-[a-z]+@sha256:[0-9a-f]{64}", base)
    assert all(line.split()[1] == "${PYTHON}" for line in LINES if line.startswith("FROM "))


def test_dockerfile_has_no_findings_of_hadolint() -> None:
    tool = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([tool, DEPLOY / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_build_fetches_only_the_base_image() -> None:
    """A `syntax` line would fetch a parser for this file first, by a tag that may change."""
    assert "syntax=" not in (DEPLOY / "Dockerfile").read_text(encoding="utf-8")


def test_installed_packages_are_checked_against_hashes() -> None:
    build, _ = stages()
    installs = [run for run in instructions("RUN", build) if re.search(r"pip\b.*\binstall", run)]
    assert len(installs) == 3
    for run in installs:
        assert "--require-hashes" in run or "--no-index" in run
        assert "--no-deps" in run


@pytest.mark.parametrize("lock", ["requirements.lock", "deploy/requirements-build.lock", "tests/requirements-dev.lock"])
def test_lock_pins_every_requirement_with_hashes(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8").replace("\\\n", " ")
    requirements = [line for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
    assert requirements
    for line in requirements:
        assert re.match(r"[A-Za-z0-9._-]+(\[[^\]]+\])?==\S+\s.*--hash=sha256:[0-9a-f]{64}", line), line


def test_wheel_is_built_with_the_build_requirements_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["build-system"]["build-backend"] == "hatchling.build"
    locked = re.search(r"^hatchling==(\d+)\.(\d+)", (DEPLOY / "requirements-build.lock").read_text(), re.MULTILINE)
    assert locked
    assert (int(locked[1]), int(locked[2])) >= (1, 27)


def test_the_last_stage_can_install_nothing_and_is_not_root() -> None:
    _, final = stages()
    runs = " ".join(instructions("RUN", final))
    assert "pip uninstall" in runs
    assert not re.search(r"apt-get|gcc|pip install|curl|wget ", runs)
    assert instructions("USER", final) == ["10001:10001"]
    user = final.index("USER 10001:10001")
    assert not [line for line in final[user:] if line.startswith(("RUN ", "COPY ", "ADD "))]


def test_the_entry_point_is_the_console_command_that_the_manifests_give_arguments_to() -> None:
    _, final = stages()
    assert instructions("ENTRYPOINT", final) == ['["bucketline"]']
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "bucketline" in project["project"]["scripts"]
    for service in SERVICES:
        (container,) = containers(pods("base")[f"Deployment/bucketline-{service}"])
        assert container["args"] == ["serve", service]
        assert str(container["securityContext"]).find("runAsUser") == -1  # the pod's, which is the image's


def test_ignore_file_admits_what_the_build_copies() -> None:
    build, _ = stages()
    copied = {word for copy in instructions("COPY", build) for word in copy.split()[:-1]}
    allowed = {
        line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")
    }
    assert copied <= allowed
    assert all((ROOT / path).exists() for path in copied)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    for package in packages["targets"]["wheel"]["packages"]:
        assert package.split("/")[0] in copied


def test_image_labels_name_the_version_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    _, final = stages()
    (labels,) = instructions("LABEL", final)
    assert f"VERSION={project['version']}" in instructions("ARG", final)
    assert f'org.opencontainers.image.licenses="{project["license"]}"' in labels
    assert "org.opencontainers.image.version=$VERSION" in labels
