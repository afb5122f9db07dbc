from __future__ import annotations

import pytest
from pydantic import ValidationError

from stream.sources.truth import GeneratorConfig


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"active_pairs": 46}, "active_pairs 46 is more than the 45 there are"),
        ({"active_numeric": 9}, "active_numeric 9 is more than the 8 there are"),
        ({"drifts": ({"kind": "sudden"},)}, "unknown drift 'sudden'"),
    ],
)
def test_a_stream_that_cannot_be_is_refused(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        GeneratorConfig.model_validate(options)
