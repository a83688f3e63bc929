"""What runs in many new processes, with all that it imports: they are forked from one that has imported it."""

import random

import IPython  # noqa: F401
import ipywidgets  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import numpy as np
import pandas as pd  # noqa: F401
import pytest  # noqa: F401  which multiprocessing imports in each of them, as it is what runs the tests
import seaborn as sns  # noqa: F401
import sklearn.datasets  # noqa: F401
import torch
from ipykernel import kernelapp  # noqa: F401

import gmfl_lite as gl
from gmfl_lite import exercises, plots, theory  # noqa: F401
from gmfl_lite.engine.threads_and_memory import load_derivatives

load_derivatives()


def run_in_a_child(settings, path, shuffle, pipe):
    """Run an experiment with a checkpoint, and tell of every evaluation; the global generators hold something else."""
    random.random()
    np.random.seed(shuffle)  # noqa: NPY002
    torch.manual_seed(shuffle)
    gl.run(gl.Experiment(**settings), checkpoint=path, progress=False, on_round=lambda *_: pipe.send("scored"))
