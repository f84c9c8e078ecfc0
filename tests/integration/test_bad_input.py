"""Bad input is answered in the envelope, with the status that the contract names."""

import aiohttp
import pytest
from tests.conftest import Api

pytestmark = pytest.mark.stack


async def test_each_mistake_has_its_answer(api: Api) -> None:
    namespace = await api.namespace()
    bucket = await api.bucket(namespace)
    good = {"Authorization": f"Bearer {api.key}", "X-Namespace": namespace}
    objects = f"/v1/buckets/{bucket}/objects"
    json_type = {"Content-Type": "application/json"}
    unknown_property = b'{"blobs": [{"property": "nope", "type": "text", "data": "x"}]}'
    cases = [
        ("wrong key", "POST", objects, {**good, "Authorization": "Bearer sk_wrong"}, b"{}", 401, "UnauthorizedError"),
        ("no key", "POST", objects, {"X-Namespace": namespace}, b"{}", 401, "UnauthorizedError"),
        ("unknown namespace", "POST", objects, {**good, "X-Namespace": "ns_nowhere"}, b"{}", 404, "NotFoundError"),
        ("no namespace", "POST", objects, {"Authorization": good["Authorization"]}, b"{}", 400, "BadRequestError"),
        ("unknown bucket", "POST", "/v1/buckets/bkt_nowhere/objects", good, b"{}", 404, "NotFoundError"),
        ("schema mismatch", "POST", objects, good, b'{"qty": "many"}', 422, "ValidationError"),
        ("unknown property", "POST", objects, good, unknown_property, 422, "ValidationError"),
        ("malformed JSON", "POST", objects, good, b'{"blobs": [', 422, "ValidationError"),
        ("not an object", "POST", objects, good, b"[1]", 422, "ValidationError"),
        ("unknown route", "GET", "/v1/nowhere", good, None, 404, "NotFoundError"),
        ("wrong method", "DELETE", objects, good, None, 405, "MethodNotAllowedError"),
    ]
    async with aiohttp.ClientSession(api.url) as session:
        for name, method, path, headers, body, status, kind in cases:
            async with session.request(method, path, headers={**headers, **json_type}, data=body) as response:
                answer = await response.json()
                assert response.status == status, (name, answer)
                assert response.headers["X-Request-Id"], name
            assert answer["success"] is False, name
            assert answer["status"] == status, name
            assert answer["error"]["type"] == kind, (name, answer)
            assert answer["error"]["message"], name
            if status == 422:
                row = answer["error"]["details"]["validation_errors"][0]
                assert set(row) == {"type", "location", "message"}, name
