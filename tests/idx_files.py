"""Small datasets for tests in the files that MNIST and its relatives come in."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def write_dataset(raw: Path, halves: Sequence[str], images: np.ndarray, labels: np.ndarray) -> None:
    """Write the same images [samples, H, W] and labels [samples], both uint8, as each half of a dataset."""
    raw.mkdir(parents=True)
    for half in halves:
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            assert array.dtype == np.uint8
            header = [0x0800 | array.ndim, *array.shape]
            content = b"".join(n.to_bytes(4, "big") for n in header) + array.tobytes()
            (raw / f"{half}-{name}-ubyte").write_bytes(content)
