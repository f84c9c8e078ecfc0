"""Kubernetes' own Pod Security evaluator admits every pod. Go builds it once, into the cache of the local stack."""

import copy
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest
from tests.deploy.rendering import COMPONENTS, TARGETS, Manifest, pods, with_component
from tests.requirements import lacking

from bucketline.devstack.downloads import default_cache_dir

SOURCE = Path(__file__).with_name("podsecurity")
BUILD_SECONDS = 400


@cache
def evaluator() -> Path:
    """The program that evaluates pods; building it takes half a minute to a minute."""
    files = sorted(file for file in SOURCE.iterdir() if file.name.startswith(("go.", "main.")))
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
    program = default_cache_dir() / f"pod-security-{digest}"
    if program.exists():
        return program
    go = shutil.which("go")
    if go is None:
        lacking("Go, which builds the Pod Security evaluator, is not installed")
    program.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=program.parent) as folder:
        built = Path(folder) / program.name
        done = subprocess.run(
            [go, "build", "-o", built, "."],
            cwd=SOURCE,
            env=os.environ | {"GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"},
            capture_output=True,
            text=True,
            timeout=BUILD_SECONDS,
            check=False,
        )
        if done.returncode:
            lacking(f"the Pod Security evaluator could not be built: {done.stderr[-500:]}")
        built.rename(program)
    return program


def violations(level: str, templates: list[Manifest]) -> list[str]:
    """What the level forbids in each pod; an empty text for a pod that it admits."""
    done = subprocess.run(
        [evaluator(), level], input=json.dumps(templates), capture_output=True, text=True, timeout=60, check=True
    )
    found: list[str] = json.loads(done.stdout)
    assert len(found) == len(templates)
    return found


@pytest.mark.timeout(BUILD_SECONDS + 60)
def test_every_pod_is_admitted_by_the_restricted_profile() -> None:
    checked = 0
    for target in (*TARGETS, *(with_component(name) for name in COMPONENTS)):
        templates = list(pods(target).values())
        assert violations("restricted", templates) == [""] * len(templates), target
        checked += len(templates)
    assert checked > 100


@pytest.mark.timeout(BUILD_SECONDS + 60)
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hostNetwork": True}, "host namespaces"),
        ({"securityContext": {"runAsNonRoot": False}}, "runAsNonRoot"),
        ({"volumes": [{"name": "disk", "hostPath": {"path": "/"}}]}, "hostPath"),
    ],
)
def test_pod_that_breaks_the_profile_is_refused(change: Manifest, reason: str) -> None:
    template = copy.deepcopy(pods("base")["Deployment/bucketline-dedup"])
    template["spec"] |= change
    (found,) = violations("restricted", [template])
    assert reason in found
