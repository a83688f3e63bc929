"""What tests do in processes of their own."""

import random

import numpy as np
import torch

import gmfl_lite as gl


def run_in_a_child(settings, path, shuffle, pipe):
    """Run an experiment with a checkpoint, and tell of every evaluation; the global generators hold something else."""
    random.random()
    np.random.seed(shuffle)  # noqa: NPY002
    torch.manual_seed(shuffle)
    gl.run(gl.Experiment(**settings), checkpoint=path, progress=False, on_round=lambda *_: pipe.send("scored"))
