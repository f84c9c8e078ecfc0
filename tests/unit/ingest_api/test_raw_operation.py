"""The schema of a route that reads its own body stands in one piece in the OpenAPI document."""

import json

from jsonschema import Draft202012Validator

from bucketline_ingest_api.app import build
from bucketline_ingest_api.objects.schemas import CreateObject, CreateObjects
from bucketline_ingest_api.raw_operation import schema_of


def test_no_reference_is_left() -> None:
    for model in (CreateObject, CreateObjects):
        assert "$ref" not in json.dumps(schema_of(model))
        assert "$defs" not in schema_of(model)


def test_it_says_what_the_model_takes() -> None:
    check = Draft202012Validator(schema_of(CreateObject))
    assert check.is_valid({"blobs": [{"property": "note", "data": {"any": [1, None]}}], "mine": {"a": 1}})
    assert not check.is_valid({"blobs": [{"data": "x"}]})
    assert not check.is_valid({"edges": [{"type": "x"}]})
    assert not check.is_valid({"skip_duplicates": "yes"})
    assert check.is_valid(schema_of(CreateObject)["example"])


def test_the_hot_routes_are_documented_as_completely_as_the_others() -> None:
    paths = build().openapi()["paths"]
    for path in ("/v1/buckets/{bucket_identifier}/objects", "/v1/buckets/{bucket_identifier}/objects/batch"):
        operation = paths[path]["post"]
        assert operation["requestBody"]["content"]["application/json"]["schema"]["example"]
        names = {parameter["name"] for parameter in operation["parameters"]}
        assert {"bucket_identifier", "X-Namespace", "auto_process"} <= names
        assert {"200", "400", "401", "403", "404", "413", "422", "429", "500", "503"} <= operation["responses"].keys()
