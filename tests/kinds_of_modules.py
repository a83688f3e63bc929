"""Small modules of all kinds for images of 8×8 pixels and ten classes: what trains, and what is refused."""

import random
import threading
import time

import numpy as np
import torch
import torch.nn.functional as F
import torch.nn.utils as U
import torch.utils.checkpoint
from torch import nn
from torch.nn.utils import parametrizations, prune


class Own(nn.Module):
    """A module whose forward is a function of itself and x."""

    def __init__(self, how, **parts):
        super().__init__()
        self.how = how
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.how(self, x)


def mlp(*middle, width=64):
    return nn.Sequential(nn.Flatten(), nn.Linear(width, 12), *(middle or (nn.Tanh(),)), nn.Linear(12, 10))


def images(*layers, width):
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width, 10))


def conv(**how):
    return nn.Conv2d(1, 4, 3, **how)


def wrapped(how, **parts):
    """A module that does something of its own with the predictions of an MLP, self.inner."""
    return Own(how, inner=mlp(), **parts)


def with_first(change, model=None):
    """An MLP whose first linear layer has been changed."""
    model = model or mlp()
    change(model[1])
    return model


# Recurrent layers read an image as eight rows.


def rows(layer, width):
    def read(self, x):
        found = self.layer(x.squeeze(1))
        return self.out((found[0] if isinstance(found, tuple) else found)[:, -1])

    return Own(read, layer=layer, out=nn.Linear(width, 10))


def cells(cell):
    def read(self, x):
        state = None
        for row in x.squeeze(1).unbind(1):
            state = self.cell(row, state)
        return self.out(state[0] if isinstance(state, tuple) else state)

    return Own(read, cell=cell, out=nn.Linear(6, 10))


def packed():
    def read(self, x):
        lengths = torch.full((len(x),), 8)
        sequence = U.rnn.pack_padded_sequence(x.squeeze(1), lengths, batch_first=True)
        return self.out(self.layer(sequence)[1][0])

    return Own(read, layer=nn.GRU(8, 6, batch_first=True), out=nn.Linear(6, 10))


# Attention, too.


def products(**how):
    def attend(self, x):
        query, key, value = self.qkv(x.squeeze(1)).chunk(3, -1)
        return self.out(F.scaled_dot_product_attention(query, key, value, **how).mean(1))

    return Own(attend, qkv=nn.Linear(8, 24), out=nn.Linear(8, 10))


def heads(**how):
    def attend(self, x):
        h = self.embed(x.squeeze(1))
        return self.out(self.attention(h, h, h, **how)[0].mean(1))

    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    return Own(attend, embed=nn.Linear(8, 8), attention=attention, out=nn.Linear(8, 10))


def encoder(dropout=0.0, **how):
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=dropout, batch_first=True, **how)
    return Own(lambda self, x: self.out(self.layer(x.squeeze(1)).mean(1)), layer=layer, out=nn.Linear(8, 10))


def decoder():
    layer = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    return Own(
        lambda self, x: self.out(self.layer(x.squeeze(1), x.squeeze(1)).mean(1)), layer=layer, out=nn.Linear(8, 10)
    )


def rotated_by_complex_numbers():
    def turn(self, x):
        pairs = torch.view_as_complex(x.flatten(1).reshape(len(x), 32, 2)) * self.turns
        return self.inner(torch.view_as_real(pairs).flatten(1))

    model = wrapped(turn)
    model.register_buffer("turns", torch.polar(torch.ones(32), torch.arange(32.0)))
    return model


# What is odd in other ways.


def tied():
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 12), nn.Linear(12, 12), mlp(width=12)
    )
    model[4].weight = model[3].weight
    return model


def weights_in_a_list():
    weights = nn.ParameterList([nn.Parameter(torch.randn(64, 12) / 8), nn.Parameter(torch.randn(12, 10) / 3)])
    return Own(lambda self, x: torch.tanh(x.flatten(1) @ self.weights[0]) @ self.weights[1], weights=weights)


def branching():
    def branch(self, x):
        return torch.stack([torch.tanh(row) if row.sum() > 0 else torch.sin(row) for row in self.inner(x)])

    return wrapped(branch)


def in_place():
    def write(self, x):
        h = self.inner(x).clone()
        h[:, :4] = h[:, :4].tanh()
        return h

    return wrapped(write)


def with_buffer(how, start=2.0, **named):
    model = wrapped(how)
    model.register_buffer("scale", torch.tensor(start), **named)
    return model


def embedded(layer, width, **how):
    return Own(
        lambda self, x: self.out(self.e((x * 16).long().flatten(1)).flatten(1)), e=layer, out=nn.Linear(width, 10)
    )


def bag():
    """It has a derivative, and no second one."""
    return Own(lambda self, x: self.bag((x * 16).long().flatten(1)), bag=nn.EmbeddingBag(17, 10))


class Tanh(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x.tanh()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g * (1 - y * y)


class OldTanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * (1 - x.tanh() ** 2)


def counting(self, x):
    self.scale += 1
    return self.inner(x)


def replacing_a_buffer(self, x):
    found = self.inner(x)
    self.scale = found.detach().mean()
    return found


def remembering(self, x):
    found = self.inner(x) + self.last
    self.last = 0.1 * found.detach().mean().item()
    return found


def halving_its_input(self, x):
    return self.inner(x.mul_(0.5))


def noisy(draw):
    return lambda self, x: self.inner(x) * (1 if draw() < 0.5 else 2)


def checkpointed(self, x):
    return torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=False)


@torch.no_grad()
def without_gradient(self, x):
    return self.inner(x)


# Many agents at once.
TRAINS = {
    "ReLU": lambda: mlp(nn.ReLU()),
    "GELU": lambda: mlp(nn.GELU()),
    "Softplus": lambda: mlp(nn.Softplus()),
    "PReLU": lambda: mlp(nn.PReLU()),
    "GLU": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.GLU(), nn.Linear(12, 10)),
    "Conv1d": lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(1, 2, 5), nn.Tanh(), nn.Flatten(), nn.Linear(120, 10)),
    "Conv2d, MaxPool2d": lambda: images(conv(), nn.MaxPool2d(2), width=36),
    "Conv3d": lambda: images(nn.Unflatten(1, (1, 1)), nn.Conv3d(1, 2, (1, 3, 3)), width=72),
    "depthwise": lambda: images(conv(), nn.Conv2d(4, 4, 3, groups=4), nn.AdaptiveAvgPool2d(2), width=16),
    "ConvTranspose2d": lambda: images(nn.ConvTranspose2d(1, 2, 3), width=200),
    "circular padding": lambda: images(conv(padding=1, padding_mode="circular"), width=256),
    "Upsample, PixelShuffle": lambda: images(nn.Upsample(scale_factor=2), conv(), nn.PixelShuffle(2), width=784),
    "Unfold": lambda: images(nn.Unfold(3), width=324),
    "channels last": lambda: images(conv().to(memory_format=torch.channels_last), width=144),
    "LayerNorm": lambda: mlp(nn.LayerNorm(12)),
    "GroupNorm": lambda: images(conv(), nn.GroupNorm(2, 4), width=144),
    "InstanceNorm": lambda: images(conv(), nn.InstanceNorm2d(4, affine=True), width=144),
    "RMSNorm": lambda: mlp(nn.RMSNorm(12)),
    "LocalResponseNorm": lambda: images(conv(), nn.LocalResponseNorm(2), width=144),
    "attention": products,
    "causal attention": lambda: products(is_causal=True),
    "attention without dropout": lambda: products(dropout_p=0.0),
    "MultiheadAttention": lambda: heads(need_weights=False),
    "MultiheadAttention, weights": heads,
    "TransformerEncoderLayer": encoder,
    "TransformerEncoderLayer, evaluated": lambda: encoder().eval(),
    "TransformerEncoderLayer, dropout off": lambda: encoder(dropout=0.3).eval(),
    "TransformerEncoderLayer, norm first": lambda: encoder(norm_first=True),
    "TransformerDecoderLayer": decoder,
    "complex buffer": rotated_by_complex_numbers,
    "spectrum": lambda: wrapped(lambda self, x: self.inner(F.pad(torch.fft.rfft2(x).abs() / 8, (0, 3)))),
    "pruned": lambda: with_first(lambda layer: prune.l1_unstructured(layer, "weight", 0.3)),
    "spectral_norm, evaluated": lambda: with_first(parametrizations.spectral_norm).eval(),
    "tied": tied,
    "frozen": lambda: with_first(lambda layer: layer.requires_grad_(False)),
    "unused": lambda: wrapped(lambda self, x: self.inner(x), other=nn.Linear(3, 3)),
    "buffer": lambda: with_buffer(lambda self, x: self.inner(x) * self.scale),
    "buffer that is not stored": lambda: with_buffer(lambda self, x: self.inner(x) * self.scale, persistent=False),
    "float64": lambda: mlp().double(),
    "float16": lambda: with_first(lambda layer: None).half(),
    "Embedding": lambda: embedded(nn.Embedding(17, 3), 192),
    "sort": lambda: wrapped(lambda self, x: self.inner(x.flatten(1).sort(-1)[0])),
    "in-place writing": in_place,
    "ParameterList": weights_in_a_list,
    "ModuleDict": lambda: Own(lambda self, x: self.parts["first"](x), parts=nn.ModuleDict({"first": mlp()})),
    "device": lambda: wrapped(lambda self, x: self.inner(x.to(self.device)), device=torch.device("cpu")),
    "hook": lambda: with_first(lambda layer: layer.register_forward_hook(lambda layer, x, y: 2 * y)),
    "Dropout, evaluated": lambda: mlp(nn.Dropout(0.2)).eval(),
    "Dropout of 0": lambda: mlp(nn.Dropout(0.0)),
    "LazyLinear with weights": lambda: (lambda model: (model(torch.ones(1, 1, 8, 8)), model)[1])(
        nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
    ),
}  # fmt: skip

# One agent at a time.
ALONE = {
    "RNN": lambda: rows(nn.RNN(8, 6, batch_first=True), 6),
    "GRU": lambda: rows(nn.GRU(8, 6, batch_first=True), 6),
    "LSTM": lambda: rows(nn.LSTM(8, 6, batch_first=True), 6),
    "LSTM of two layers and directions": lambda: rows(nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True), 12),
    "LSTM with projections": lambda: rows(nn.LSTM(8, 6, proj_size=3, batch_first=True), 3),
    "LSTM, dropout off": lambda: rows(nn.LSTM(8, 6, 2, dropout=0.3, batch_first=True), 6).eval(),
    "RNNCell": lambda: cells(nn.RNNCell(8, 6)),
    "GRUCell": lambda: cells(nn.GRUCell(8, 6)),
    "LSTMCell": lambda: cells(nn.LSTMCell(8, 6)),
    "branching": branching,
    "number taken out": lambda: wrapped(lambda self, x: self.inner(x) * float(x.abs().max() < 9)),
    "autograd.Function": lambda: wrapped(lambda self, x: Tanh.apply(self.inner(x))),
}  # fmt: skip

# One or the other, as torch gets new batching rules.
EITHER = {
    "Bilinear": lambda: Own(lambda self, x: self.layer(x[:, 0, 0], x[:, 0, 1]), layer=nn.Bilinear(8, 8, 10)),
    "weight_norm": lambda: with_first(parametrizations.weight_norm),
    "old weight_norm": lambda: with_first(U.weight_norm),
    "orthogonal": lambda: with_first(parametrizations.orthogonal),
    "nonzero": lambda: wrapped(lambda self, x: self.inner(x) + 0 * (x > 0.5).nonzero().numel()),
    "RReLU, evaluated": lambda: mlp(nn.RReLU()).eval(),
}  # fmt: skip

STATISTICS, OTHERS, CHANGES = "keeps running statistics", "depends on the others in its batch", "changes its "
DROPOUT, AGAIN, NO_DERIVATIVE = "Set its dropout to 0", "another prediction for the same samples", "by torch.func"
# With what is said.
REFUSED = {
    "BatchNorm": (lambda: mlp(nn.BatchNorm1d(12)), STATISTICS),
    "InstanceNorm with statistics": (
        lambda: images(conv(), nn.InstanceNorm2d(4, track_running_stats=True), width=144), STATISTICS
    ),
    "BatchNorm without statistics": (
        lambda: mlp(nn.BatchNorm1d(12, track_running_stats=False)), "computes a sample's output from the others"
    ),
    "centred by the batch": (lambda: wrapped(lambda self, x: self.inner(x - x.mean(0))), OTHERS),
    "softmax over the batch": (lambda: mlp(nn.Softmax(0)), OTHERS),
    "sum up to a sample": (lambda: wrapped(lambda self, x: self.inner(x.cumsum(0))), OTHERS),
    "next sample": (lambda: wrapped(lambda self, x: self.inner(x + x.roll(1, 0))), OTHERS),
    "GRU along the batch": (lambda: rows(nn.GRU(8, 6), 6), OTHERS),
    "encoder along the batch": (
        lambda: Own(
            lambda self, x: self.out(self.layer(x.squeeze(1)).mean(1)),
            layer=nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0), out=nn.Linear(8, 10),
        ),
        OTHERS,
    ),
    "squeeze": (lambda: wrapped(lambda self, x: self.inner(x).squeeze()), r"of one sample alone must give \[1, 10\]"),
    "four samples alone": (lambda: wrapped(lambda self, x: self.inner(x.reshape(4, 1, 8, 8))), "does not take images"),
    "Dropout": (lambda: mlp(nn.Dropout(0.2)), DROPOUT),
    "AlphaDropout": (lambda: mlp(nn.AlphaDropout(0.2)), DROPOUT),
    "LSTM with dropout": (lambda: rows(nn.LSTM(8, 6, 2, dropout=0.3, batch_first=True), 6), DROPOUT),
    "encoder with dropout": (lambda: encoder(dropout=0.1), DROPOUT),
    "attention with dropout": (lambda: products(dropout_p=0.1), "draws from torch's global random generator"),
    "RReLU": (lambda: mlp(nn.RReLU()), "draws from torch's"),
    "torch's numbers": (lambda: wrapped(noisy(lambda: torch.rand(()).item())), "draws from torch's"),
    "Python's numbers": (lambda: wrapped(noisy(random.random)), "draws from Python's"),
    "NumPy's numbers": (lambda: wrapped(noisy(lambda: np.random.rand())), "draws from NumPy's"),  # noqa: NPY002
    "a generator of its own": (lambda: wrapped(noisy(np.random.default_rng(0).random)), AGAIN),
    "the time": (lambda: wrapped(lambda self, x: self.inner(x) * (1 + time.time() % 1)), AGAIN),
    "memory": (lambda: wrapped(remembering, last=0.0), AGAIN),
    "counted buffer": (lambda: with_buffer(counting), CHANGES + "buffers"),
    "replaced buffer": (lambda: with_buffer(replacing_a_buffer), CHANGES + "buffers"),
    "spectral_norm": (lambda: with_first(parametrizations.spectral_norm), r"call model.eval\(\)"),
    "old spectral_norm": (lambda: with_first(U.spectral_norm), r"call model.eval\(\)"),
    "changed input": (lambda: wrapped(halving_its_input), CHANGES + "input"),
    "max_norm": (lambda: embedded(nn.Embedding(17, 3, max_norm=0.1), 192), CHANGES + "parameters"),
    "sparse gradients": (lambda: embedded(nn.Embedding(17, 3, sparse=True), 192), "Set sparse=False"),
    "NumPy inside": (
        lambda: wrapped(lambda self, x: torch.from_numpy(np.sqrt(self.inner(x).detach().numpy() ** 2))), NO_DERIVATIVE
    ),
    "old autograd.Function": (lambda: wrapped(lambda self, x: OldTanh.apply(self.inner(x))), "has no setup_context"),
    "checkpointing": (lambda: wrapped(checkpointed), NO_DERIVATIVE),
    "packed sequences": (packed, NO_DERIVATIVE),
    "no gradient": (lambda: wrapped(without_gradient), "does not depend on its parameters"),
    "detached": (lambda: wrapped(lambda self, x: self.inner(x).detach()), "does not depend on its parameters"),
    "tuple": (lambda: wrapped(lambda self, x: (self.inner(x), x)), "got tuple"),
    "dict": (lambda: wrapped(lambda self, x: {"logits": self.inner(x)}), "got dict"),
    "half precision": (lambda: wrapped(lambda self, x: self.inner(x).half()), r"got torch\.float16"),
    "another argument": (lambda: wrapped(lambda self, x: self.inner(x, mask=None)), "'mask'"),
    "flattened": (lambda: wrapped(lambda self, x: self.inner(x).flatten()), "a prediction for each of 4 samples"),
    "nine classes": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 9)), r"must give logits \[4, 10\]"),
    "other samples": (lambda: mlp(width=63), "does not take images"),
    "complex weights": (lambda: Own(lambda self, x: x, w=nn.Parameter(torch.ones(2, dtype=torch.cfloat))), "complex64"),
    "no parameters": (nn.Flatten, "has no parameters to train"),
    "lazy": (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), "call it once on a batch"),
    "scripted": (lambda: torch.jit.script(mlp()), "give the module that was compiled"),
    "DataParallel": (lambda: nn.DataParallel(mlp()), r"give the module inside, model\.module"),
    "lock": (lambda: wrapped(lambda self, x: self.inner(x), lock=threading.Lock()), "cannot be copied"),
}  # fmt: skip
