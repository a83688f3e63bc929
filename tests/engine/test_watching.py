"""A computation ends before the next tensor operation when it is asked to, or out of time."""

import threading

import pytest
import torch
from torch.func import grad, vmap

from gmfl_lite.engine import Stopped, Watch


@pytest.mark.parametrize("backward", [False, True])
def test_nothing_is_computed_once_stop_is_set(backward):
    stop, done = threading.Event(), []

    class Sets(torch.autograd.Function):
        """The identity, which asks to stop on the way forward, or back."""

        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            if not backward:
                stop.set()
            return x.clone()

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, gradient):
            stop.set()
            done.append("back")
            return gradient * 2

    def loss(x):
        y = Sets.apply(x.sin())
        done.append("forward")
        return (y * y).sum()

    with pytest.raises(Stopped), Watch(stop):
        vmap(grad(loss))(torch.ones(3, 2))
    assert done == (["forward", "back"] if backward else [])
    assert vmap(grad(lambda x: (x * x).sum()))(torch.ones(3, 2)).tolist() == [[2, 2]] * 3, "torch is as it was"


def test_time_runs_out():
    with pytest.raises(Stopped), Watch(None, seconds=0.0):
        torch.ones(1)
    with Watch(None, seconds=1e6), Watch(threading.Event()):
        assert torch.ones(1) + 1 == 2
