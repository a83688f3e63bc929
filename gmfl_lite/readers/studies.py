"""The tables of studies/, in a checkout of the repository as in an installed library, which carries them."""

from pathlib import Path

import pandas as pd

from ..basics import checks

_LIBRARY = Path(__file__).parents[1]


def read_study(name: str = "evidence") -> dict[str, pd.DataFrame]:
    """Return the tables of a study by their names: those of the checkout, or those that were installed.

    Parameters
    ----------
    name : "few-shots", "map", "evidence", or "evidence-quick" for what `studies/evidence.py --quick` makes; what the
        columns are is in studies/README.md.

    Raises
    ------
    ValueError : there is no study of this name.

    Examples
    --------
    >>> sorted(read_study("evidence"))
    ['curves', 'results', 'timings', 'tuning']
    """
    installed = _LIBRARY / "studies"
    studies = installed if installed.is_dir() else _LIBRARY.parent / "studies"
    checks.choice("name", name, sorted(path.parent.name for path in studies.glob("*/results.csv")))
    return {path.stem: pd.read_csv(path) for path in sorted((studies / name).glob("*.csv"))}
