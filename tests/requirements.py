"""What a checkout or a machine may lack: a reason to skip a test, but where everything has to be there, to fail it."""

import os
from typing import NoReturn

import pytest

EVERYTHING = os.environ.get("BUCKETLINE_TESTS_REQUIRE_ALL") == "1"
"""Our own continuous integration says so (``.ci/run``). A fork's need not have all of it."""


def lacking(reason: str) -> NoReturn:
    """Ends the test that cannot do without."""
    if EVERYTHING:
        pytest.fail(reason)
    pytest.skip(reason)
