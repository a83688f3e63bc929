"""What runs in many new processes, with all that it imports: they are forked from one that has imported it."""

import random

import numpy as np
import pytest  # noqa: F401  which multiprocessing imports in each of them, as it is what runs the tests
import sklearn.datasets  # noqa: F401
import torch

import gmfl_lite as gl
from gmfl_lite.engine.threads_and_memory import load_derivatives

load_derivatives()


def run_in_a_child(settings, path, shuffle, pipe):
    """Run an experiment with a checkpoint, and tell of every evaluation; the global generators hold something else."""
    random.random()
    np.random.seed(shuffle)  # noqa: NPY002
    torch.manual_seed(shuffle)
    gl.run(gl.Experiment(**settings), checkpoint=path, progress=False, on_round=lambda *_: pipe.send("scored"))
