"""Write the generated manifests: `python -m deploy.k8s.generate`, from the root of the repository.

Topics, users, rights, consumer groups and metric names have one source, the Python package. The generated files are
committed, so the manifests can be read and applied without running anything. ``--check`` (and a test) fails where a
committed file differs.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from deploy.k8s.render import keda, strimzi
from deploy.k8s.render.dashboards import DASHBOARDS
from deploy.k8s.render.panels import dashboard_json
from deploy.k8s.render.text import patch_file, yaml_file

FOLDER = Path(__file__).parent
TABLE = "bucketline.events.topics"


def rendered() -> Mapping[str, str]:
    """Return the text of every generated file by its path below ``deploy/k8s``."""
    files = {
        "components/strimzi/topics.yaml": yaml_file(list(strimzi.topics()), TABLE),
        "components/strimzi/users.yaml": yaml_file(list(strimzi.users()), TABLE),
        "components/strimzi/credentials.yaml": yaml_file(list(strimzi.credentials()), "deploy/k8s/render/strimzi.py"),
        "components/keda/scaledobjects.yaml": yaml_file(
            list(keda.scaled_objects()), f"{TABLE} and deploy/k8s/render/keda.py"
        ),
    }
    for service, operations in keda.backlog_patches():
        files[f"components/keda-backlog/{service}.yaml"] = patch_file(operations, "deploy/k8s/render/keda.py")
    for dashboard in DASHBOARDS:
        files[f"components/monitoring/dashboards/{dashboard.uid}.json"] = dashboard_json(dashboard)
    return files


def stale() -> list[str]:
    """Return the paths of committed files that differ from what would be written now."""
    return [
        name
        for name, text in rendered().items()
        if not (FOLDER / name).is_file() or (FOLDER / name).read_text(encoding="utf-8") != text
    ]


def main() -> int:
    """Write the files that changed, or check that none did."""
    parser = argparse.ArgumentParser(description="Write the generated manifests.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file would change")
    changed = stale()
    if parser.parse_args().check:
        for name in changed:
            sys.stderr.write(f"deploy/k8s/{name} is stale: run python -m deploy.k8s.generate\n")
        return 1 if changed else 0
    for name in changed:
        (FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
        (FOLDER / name).write_text(rendered()[name], encoding="utf-8")
        sys.stdout.write(f"wrote deploy/k8s/{name}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
