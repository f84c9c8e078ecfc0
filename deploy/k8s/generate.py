"""Write the generated manifests and the Helm chart: `python -m deploy.k8s.generate`, from the root of the repository.

Topics, users, rights, consumer groups and metric names have one source, the Python package. The chart is what
kustomize renders, with values. The generated files are committed, so they can be read and applied without running
anything. ``--check`` (and a test) fails where a committed file differs.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from deploy.k8s.render import helm, keda, strimzi
from deploy.k8s.render.dashboards import DASHBOARDS
from deploy.k8s.render.panels import dashboard_json
from deploy.k8s.render.text import patch_file, yaml_file

FOLDER = Path(__file__).parent
CHART = FOLDER.parent / "helm"
TABLE = "bucketline.events.topics"


def manifests() -> Mapping[Path, str]:
    """Return the text of every generated manifest by its path."""
    files = {
        "strimzi/topics.yaml": yaml_file(list(strimzi.topics()), TABLE),
        "strimzi/users.yaml": yaml_file(list(strimzi.users()), TABLE),
        "strimzi/credentials.yaml": yaml_file(list(strimzi.credentials()), "deploy/k8s/render/strimzi.py"),
        "keda/scaledobjects.yaml": yaml_file(list(keda.scaled_objects()), f"{TABLE} and deploy/k8s/render/keda.py"),
    }
    for service, operations in keda.backlog_patches():
        files[f"keda-backlog/{service}.yaml"] = patch_file(operations, "deploy/k8s/render/keda.py")
    for dashboard in DASHBOARDS:
        files[f"monitoring/dashboards/{dashboard.uid}.json"] = dashboard_json(dashboard)
    return {FOLDER / "components" / name: text for name, text in files.items()}


def chart() -> Mapping[Path, str]:
    """Return the text of every generated file of the Helm chart by its path. The committed manifests are its source."""
    return {CHART / name: text for name, text in helm.chart().items()}


def stale(files: Mapping[Path, str]) -> list[Path]:
    """Return the paths whose file is missing or differs from the text that would be written."""
    return [path for path, text in files.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]


def main() -> int:
    """Write the files that changed, or check that none did."""
    parser = argparse.ArgumentParser(description="Write the generated manifests and the Helm chart.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file would change")
    check = parser.parse_args().check
    changed = False
    for group in (manifests, chart):
        files = group()
        for path in stale(files):
            changed = True
            name = path.relative_to(FOLDER.parents[1])
            if check:
                sys.stderr.write(f"{name} is stale: run python -m deploy.k8s.generate\n")
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(files[path], encoding="utf-8")
                sys.stdout.write(f"wrote {name}\n")
    return 1 if check and changed else 0


if __name__ == "__main__":
    raise SystemExit(main())
