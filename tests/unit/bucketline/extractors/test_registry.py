import subprocess
import sys
from collections.abc import AsyncIterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import cast

import pytest

from bucketline.errors import ValidationFailed
from bucketline.extractors import ExtractorInfo, ExtractorRegistry, UnknownExtractor, validate_parameters
from bucketline.extractors.registry import GROUP


class Good:
    info = ExtractorInfo(
        name="good",
        version="v1",
        description="Works.",
        parameters_schema={
            "type": "object",
            "properties": {
                "size": {"type": "integer", "minimum": 1, "default": 10},
                "tags": {"type": "array", "default": []},
                "nested": {"type": "object", "properties": {"deep": {"type": "string", "default": "x"}}},
            },
            "required": ["name"],
        },
        output_schema=lambda parameters: {"properties": {f"f{parameters['size']}": {"type": "string"}}},
    )

    async def extract(self, *_: object) -> AsyncIterator[None]:
        yield None


class NoInfo:
    pass


class BadSchema:
    info = ExtractorInfo(name="schema", version="v1", description="", parameters_schema={"type": 7})

    async def extract(self, *_: object) -> AsyncIterator[None]:
        yield None


class Explodes:
    def __init__(self) -> None:
        raise RuntimeError("no licence")


def entry(name: str, value: str) -> EntryPoint:
    return EntryPoint(name=name, value=value, group=GROUP)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name under which entry points can load this module."""
    monkeypatch.setitem(sys.modules, "extractors_under_test", sys.modules[__name__])
    return "extractors_under_test"


def test_the_built_in_extractors_are_found() -> None:
    registry = ExtractorRegistry()
    ids = {info.id for info in registry.infos()}

    assert {
        "passthrough_extractor_v1",
        "text_extractor_v1",
        "document_extractor_v1",
        "image_extractor_v1",
        "table_extractor_v1",
        "http_extractor_v1",
        "text_embedding_v1",
    } <= ids
    assert registry.find("text_extractor", "v1").info.label == "text_extractor@v1"


def test_listing_the_built_in_ones_loads_no_file_library() -> None:
    heavy = ["PIL", "pyarrow", "pypdfium2", "python_calamine", "turbohtml", "lxml", "numpy", "onnxruntime", "aiohttp"]
    code = (
        "import sys; from bucketline.extractors import ExtractorRegistry; "
        "assert len(ExtractorRegistry().infos()) >= 7; "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_broken_plugin_is_reported_and_does_not_affect_others(here: str) -> None:
    registry = ExtractorRegistry(
        lambda: [
            entry("missing_v1", "no_such_module:Thing"),
            entry("absent_v1", f"{here}:Absent"),
            entry("explodes_v1", f"{here}:Explodes"),
            entry("noinfo_v1", f"{here}:NoInfo"),
            entry("schema_v1", f"{here}:BadSchema"),
            entry("misnamed_v1", f"{here}:Good"),
            entry("good_v1", f"{here}:Good"),
        ]
    )

    assert [info.id for info in registry.infos()] == ["good_v1"]
    reasons = {broken.entry_point: broken.reason for broken in registry.broken()}
    assert set(reasons) == {"missing_v1", "absent_v1", "explodes_v1", "noinfo_v1", "schema_v1", "misnamed_v1"}
    assert "no licence" in reasons["explodes_v1"]
    assert "must be named 'good_v1'" in reasons["misnamed_v1"]


def test_get_loads_only_the_requested_extractor(here: str) -> None:
    registry = ExtractorRegistry(lambda: [entry("explodes_v1", f"{here}:Explodes"), entry("good_v1", f"{here}:Good")])
    extractor = registry.get("good_v1")

    assert extractor is registry.find("good", "v1")
    assert registry._broken == []


@pytest.mark.parametrize("name", ["nothing", "explodes"])
def test_unknown_or_broken_extractor_error_lists_the_installed_ones(here: str, name: str) -> None:
    registry = ExtractorRegistry(lambda: [entry("explodes_v1", f"{here}:Explodes"), entry("good_v1", f"{here}:Good")])
    with pytest.raises(UnknownExtractor, match="there are: good_v1") as caught:
        registry.find(name, "v1")
    assert caught.value.status == 422


def test_an_outsiders_claim_on_a_built_in_id_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "aaa_evil-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: aaa-evil\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\ntext_extractor_v1 = evil:Text\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = ExtractorRegistry()

    assert type(registry.get("text_extractor_v1")).__module__ == "bucketline_processor.extractors.text"
    [broken] = registry.broken()
    assert (broken.distribution, broken.reason) == (
        "aaa-evil",
        "'text_extractor_v1' is provided by bucketline already",
    )


def test_defaults_are_filled_at_every_level_and_not_shared() -> None:
    given = {"name": "n", "nested": {}}
    first = validate_parameters(Good.info, given)
    second = validate_parameters(Good.info, given)

    assert first == {"name": "n", "size": 10, "tags": [], "nested": {"deep": "x"}}
    assert given == {"name": "n", "nested": {}}
    assert first["tags"] is not second["tags"]


def test_a_whole_number_written_with_a_fraction_is_an_integer_where_one_is_wanted() -> None:
    """JSON knows one kind of number, and some clients write them all as floats."""
    whole = {"type": "integer"}
    schema = {
        "properties": {
            "size": whole,
            "share": {"type": "number"},
            "maybe": {"type": ["integer", "null"]},
            "sizes": {"type": "array", "items": whole},
            "options": {"type": "object"},
        }
    }
    given = {"size": 1000.0, "share": 2.0, "maybe": 3.0, "sizes": [4.0, 5], "options": {"x": 6.0}}
    found = validate_parameters(ExtractorInfo("n", "v1", "", parameters_schema=schema), given)
    assert repr(found) == "{'size': 1000, 'share': 2.0, 'maybe': 3, 'sizes': [4, 5], 'options': {'x': 6.0}}"
    with pytest.raises(ValidationFailed):
        validate_parameters(ExtractorInfo("n", "v1", "", parameters_schema=schema), {"size": 1.5})


def test_every_fault_has_its_place() -> None:
    with pytest.raises(ValidationFailed) as caught:
        validate_parameters(Good.info, {"size": 0, "nested": {"deep": 5}})

    places = {tuple(cast("list[object]", fault["location"])) for fault in caught.value.issues}
    base = ("body", "feature_extractor", "parameters")
    assert places == {base, (*base, "size"), (*base, "nested", "deep")}


def test_the_output_schema_may_depend_on_parameters() -> None:
    parameters = validate_parameters(Good.info, {"name": "n", "size": 3})
    assert Good.info.schema_for(parameters) == {"properties": {"f3": {"type": "string"}}}
