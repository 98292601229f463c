"""The API under generated requests and damaged images: no internal errors, and responses match the schema."""

import io

import hypothesis.strategies as st
import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from PIL import Image
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests import served
from tpr_jax.search.query.search import open_searcher
from tpr_jax.search.server.api import make_app
from tpr_jax.search.server.guard import Limits
from tpr_jax.search.server.live import LiveIndex

SCENES = [f"/api/scenes/{{row}}{path}" for path in ("", "/frame", "/moments", "/moments/{number}", "/video")]
BOUNDED = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)


@pytest.fixture(scope="module")
def app(tiny, tmp_path_factory):
    index = served.make_index(tmp_path_factory.mktemp("fuzz"), tiny["clip"])
    return make_app(LiveIndex(open_searcher(index)), Limits(rate=0, body=200_000))


@pytest.fixture(scope="module")
def described(app):
    return schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/search"),
        ("POST", "/api/search/photo"),
        ("GET", "/api/photos/{row}"),
        *(("GET", path) for path in SCENES),
    ],
)
def test_every_route_handles_generated_requests(described, method, path, mode):
    @given(case=described[path][method].as_strategy(mode))
    @BOUNDED
    def ask(case):
        # A valid request may still be rejected, such as a condition on an unknown column.
        reply = case.call()
        if reply.status_code != 413:  # which schemathesis does not expect for a body that is too large
            case.validate_response(reply, excluded_checks=[positive_data_acceptance])
        assert reply.headers["x-content-type-options"] == ["nosniff"]

    ask()


def test_openapi_lists_the_tested_routes(described):
    paths = {operation.ok().path for operation in described.get_all_operations()}
    assert paths == {"/api/index", "/api/search", "/api/search/photo", "/api/photos/{row}", *SCENES}
    described["/api/index"]["GET"].Case().call_and_validate()


@given(data=st.data())
@BOUNDED
def test_damaged_images(app, data):
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"]))
    written = io.BytesIO()
    Image.linear_gradient("L").resize((24, 32)).convert("RGB").save(written, kind)
    picture = bytearray(written.getvalue())
    for _ in range(data.draw(st.integers(1, 8))):
        picture[data.draw(st.integers(0, len(picture) - 1))] = data.draw(st.integers(0, 255))
    kept = data.draw(st.integers(len(picture) // 2, len(picture)))
    reply = TestClient(app, raise_server_exceptions=False).post(
        "/api/search/photo",
        content=bytes(picture[:kept]),
        headers={"content-type": "application/octet-stream"},
    )
    assert reply.status_code in (200, 413, 422), reply.text
