"""What several seeds say together: means with intervals."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from . import checks


def over_seeds(frame: pd.DataFrame, by: Sequence[str], value: str = "accuracy") -> pd.DataFrame:
    """Average a column over what differs within groups, the seeds: mean and 95 % bootstrap interval of the mean.

    The interval holds the middle 95 % of the means of 10,000 draws of as many seeds, with replacement. From five seeds
    it is somewhat narrow, because it knows of no seed more extreme than those that were run.

    Parameters
    ----------
    frame : one row per group and seed, such as rows of `gmfl_lite.sweep` for one group of agents and one number of
        fine-tuning steps.
    by : the columns that tell the groups apart.
    value : the column to average; rows where it is missing are left out.

    Returns
    -------
    DataFrame indexed by `by`, in order of appearance, with columns mean, low, high and seeds (how many). One seed alone
    has no interval: low and high are missing.

    Raises
    ------
    ValueError : a column that `frame` does not have.

    References
    ----------
    Efron, Tibshirani: An introduction to the bootstrap, 1993, section 13.3 (the percentile interval).

    Examples
    --------
    >>> frame = pd.DataFrame({"nu": [0, 0, 0, 1, 1, 1], "accuracy": [0.5, 0.6, 0.7, 0.8, 0.8, 0.8]})
    >>> print(over_seeds(frame, ["nu"]).round(2).reset_index().to_string(index=False))
     nu  mean  low  high  seeds
      0   0.6  0.5   0.7      3
      1   0.8  0.8   0.8      3
    """
    if not isinstance(frame, pd.DataFrame):
        raise checks.refusal("frame", frame, "a DataFrame, such as gmfl_lite.sweep gives")
    missing = [name for name in (*by, value) if name not in frame]
    if missing or not by:
        raise checks.refusal("by and value", missing or list(by), f"some of the frame's columns: {checks.few(frame)}")
    groups = frame.dropna(subset=[value]).groupby(list(by), sort=False)[value]
    return groups.apply(_summary).unstack(-1).astype({"seeds": int})


def _summary(values: pd.Series) -> pd.Series:
    low = high = np.nan
    if len(values) > 1:
        drawn = np.random.default_rng(0).choice(values.to_numpy(), (10_000, len(values)))
        low, high = np.quantile(drawn.mean(axis=1), [0.025, 0.975])
    return pd.Series({"mean": values.mean(), "low": low, "high": high, "seeds": len(values)})


def percent_over_seeds(frame: pd.DataFrame, by: Sequence[str], value: str = "accuracy") -> pd.Series:
    """Put what `over_seeds` says of shares into words, in percent: the mean and its interval.

    >>> frame = pd.DataFrame({"nu": [0, 0, 0, 1, 1, 1], "accuracy": [0.5, 0.6, 0.7, 0.8, 0.8, 0.8]})
    >>> percent_over_seeds(frame, ["nu"]).to_dict()
    {0: '60.0 [50.0, 70.0]', 1: '80.0 [80.0, 80.0]'}
    """
    table = 100 * over_seeds(frame, by, value)
    means = zip(table["mean"], table["low"], table["high"], strict=True)
    return pd.Series([f"{mean:.1f} [{low:.1f}, {high:.1f}]" for mean, low, high in means], table.index, name=value)
