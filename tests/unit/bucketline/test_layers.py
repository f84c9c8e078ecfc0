"""The package's docstring names its layers from the top down, and it is right."""

import ast
import re
from pathlib import Path

import bucketline

ROOT = Path(bucketline.__file__).parent
SERVICES = ROOT.parents[1] / "services"
LAYERS = re.findall(r"^- ``(\w+)``", bucketline.__doc__ or "", re.MULTILINE)


def imported(module: Path) -> set[str]:
    """The packages and modules of the library that a module imports, also inside functions."""
    names: list[str] = []
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names += [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("bucketline.")}


def test_every_package_is_a_layer() -> None:
    assert sorted(LAYERS) == sorted(init.parent.name for init in ROOT.glob("*/__init__.py"))


def test_a_layer_imports_only_those_above_it() -> None:
    wrong = [
        f"{module.relative_to(ROOT)} imports {other}"
        for place, layer in enumerate(LAYERS)
        for module in (ROOT / layer).rglob("*.py")
        for other in sorted(imported(module).intersection(LAYERS[place + 1 :]))
    ]
    assert wrong == []


def test_services_never_use_a_collection_past_its_repository() -> None:
    access = re.compile(r"\bdatabase\.collection\(|\.collection\.[a-z_]+\(|\w*s\.collection\b", re.MULTILINE)
    used = [
        f"{module.relative_to(SERVICES)}:{number}: {line.strip()}"
        for module in sorted(SERVICES.glob("*/bucketline_*/**/*.py"))
        for number, line in enumerate(module.read_text(encoding="utf-8").splitlines(), 1)
        if access.search(line)
    ]
    assert used == []
