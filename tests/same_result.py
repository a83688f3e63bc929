"""Whether two results are the same, bit by bit."""

import torch


def assert_same(one, other):
    assert one.history.equals(other.history)
    assert one.agents.equals(other.agents)
    assert all(torch.equal(tensor, other.params[name]) for name, tensor in one.params.items())
    assert (one.status, one.round, one.message) == (other.status, other.round, other.message)
