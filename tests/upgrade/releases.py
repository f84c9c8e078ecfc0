"""Other releases of Bucketline than the one in the tree, to run beside it."""

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bucketline.devstack.supervisor import Service
from bucketline.settings import SERVICES, ServiceName

PREVIOUS = "8bbef4310c7da34eedfa0fe2009609a8c7a693f6"
"""The commit that people run today; moved on with each release."""

SOURCES = ("shared", *(f"services/{name}" for name in SERVICES))
GIT_SECONDS = 30.0
START_SECONDS = 60.0
CONSUMED = """
import json
from bucketline.events.topics import consumed_by
from bucketline.settings import SERVICES
print(json.dumps({service: [topic.name for topic in consumed_by(service)] for service in SERVICES}))
"""


@dataclass(frozen=True)
class Release:
    """How to start a release; ``folder`` is its tree, None for the one that is tested."""

    name: str
    command: tuple[str, ...] = ("-m", "bucketline.cli.main")
    folder: Path | None = None

    def services(self, environment: Mapping[str, str]) -> list[Service]:
        """One instance of each service."""
        return [self._service(name, {**environment, **self._tree()}) for name in SERVICES]

    def consumed(self) -> dict[str, list[str]]:
        """Return the topics that each service of this release reads, by its own topic table."""
        printed = subprocess.run(
            [sys.executable, "-c", CONSUMED],
            env={**os.environ, **self._tree()},
            capture_output=True,
            check=True,
            timeout=START_SECONDS,
        )
        consumed: dict[str, list[str]] = json.loads(printed.stdout)
        return consumed

    def _tree(self) -> dict[str, str]:
        """Return the variable that makes Python import this release."""
        if self.folder is None:
            return {}
        return {"PYTHONPATH": os.pathsep.join(str(self.folder / source) for source in SOURCES)}

    def _service(self, name: ServiceName, environment: Mapping[str, str]) -> Service:
        return Service(name=name, command=(sys.executable, *self.command, "serve", name), environment=environment)


TODAY = Release("today")
NEXT = Release("next", command=(str(Path(__file__).with_name("next_release.py")),))


def previous(repository: Path, folder: Path) -> Release | None:
    """The release before this one, unpacked into ``folder``; None where the history does not reach back to it."""
    git = ("git", "-C", str(repository))
    known = subprocess.run([*git, "cat-file", "-e", f"{PREVIOUS}^{{commit}}"], capture_output=True, timeout=GIT_SECONDS)
    if known.returncode:
        return None
    archive = subprocess.run(
        [*git, "archive", "--format=tar", PREVIOUS, "shared", "services"],
        capture_output=True,
        check=True,
        timeout=GIT_SECONDS,
    )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tree:
        tree.extractall(folder, filter="data")
    return Release("previous", folder=folder)
