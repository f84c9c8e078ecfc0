"""A skip on a machine of one's own is a failure where everything has to be there."""

import pytest
from tests import requirements


@pytest.mark.parametrize(("everything", "outcome"), [(False, pytest.skip.Exception), (True, pytest.fail.Exception)])
def test_missing_requirement_skips_or_fails(
    everything: bool, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requirements, "EVERYTHING", everything)
    with pytest.raises(outcome, match="no Java"):
        requirements.lacking("no Java")
