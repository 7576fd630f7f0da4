import json
import math

import numpy as np
import pytest

from gwm.files.json_text import json_text
from gwm.metrics.judge import means


def strict(text: str):
    """As browsers and other languages read it."""

    def refuse(name: str):
        raise ValueError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, float(np.float64("nan"))])
def test_what_is_no_number_is_written_as_not_measured(value: float):
    found = strict(json_text({"psnr": value, "rows": [(1.5, value)], "name": "é", "count": 3}))
    assert found == {"psnr": None, "rows": [[1.5, None]], "name": "é", "count": 3}


def test_a_mean_is_of_the_clips_that_were_measured():
    rows = [{"psnr": 1.0, "identity": math.nan}, {"psnr": 3.0, "identity": None}, {"psnr": math.nan}]
    assert means(rows) == {"psnr": 2.0}
