"""Every service has the same five files, so that reading one service teaches the others."""

from pathlib import Path

import pytest

import bucketline
from bucketline.settings import SERVICES

ROOT = Path(bucketline.__file__).parents[2] / "services"
FILES = ("app.py", "settings.py", "subscribers.py", "service.py", "reconciler.py")
EXCEPTIONS = {("ingest-api", "service.py"): "every resource package has its own service.py"}


@pytest.mark.parametrize("service", SERVICES)
def test_service_package_has_the_five_common_files(service: str) -> None:
    package = ROOT / service / f"bucketline_{service.replace('-', '_')}"
    missing = {name for name in FILES if not (package / name).is_file()}
    assert missing == {name for exempt, name in EXCEPTIONS if exempt == service}
