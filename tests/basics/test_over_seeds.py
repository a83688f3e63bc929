"""What several seeds say: against formulas and counts of one's own."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from gmfl_lite.basics.over_seeds import over_seeds


def test_the_interval_is_the_one_of_all_possible_draws():
    values = [0.61, 0.64, 0.70, 0.66, 0.59]
    every_draw = [np.mean(draw) for draw in itertools.product(values, repeat=5)]  # 5⁵, each equally likely
    table = over_seeds(pd.DataFrame({"nu": 3, "accuracy": values}), ["nu"])
    assert table.loc[3, "mean"] == pytest.approx(0.64)
    np.testing.assert_allclose(table.loc[3, ["low", "high"]], np.quantile(every_draw, [0.025, 0.975]), atol=2e-3)
    assert table.loc[3, "seeds"] == 5


def test_groups_keep_their_order_and_missing_values_do_not_count():
    frame = pd.DataFrame({"a": [2, 2, 1, 1], "b": list("xxyy"), "accuracy": [0.5, 0.7, 0.9, math.nan]})
    table = over_seeds(frame, ["a", "b"])
    assert list(table.index) == [(2, "x"), (1, "y")]
    assert list(table["seeds"]) == [2, 1]
    assert np.isnan(table.loc[(1, "y"), "low"])
    with pytest.raises(ValueError, match="'nuu'"):
        over_seeds(frame, ["nuu"])
