"""What a student may send who lies, or whose computer is broken; and the app of one who lies in every round."""

import io
import pickle

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord
from flwr.clientapp import ClientApp

from gmfl_lite.flower import agent as honest


def says(**values):
    def lie(content):
        content["metrics"] = MetricRecord({**content["metrics"], **values})

    return lie


def sends(change):
    def lie(content):
        w = content["arrays"]["w"].numpy()
        content["arrays"] = ArrayRecord({"w": Array(change(w).astype(np.float32))})

    return lie


def raw(data, dtype="float32", shape=(650,)):
    def lie(content):
        content["arrays"] = ArrayRecord({"w": Array(dtype, shape, "numpy.ndarray", data)})

    return lie


def noisy(w):
    return w + 1e3 * np.random.default_rng(0).standard_normal(w.shape)


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz():
    file = io.BytesIO()
    np.savez(file, w=np.zeros(650, np.float32))
    return file.getvalue()


def header(text):
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


GIANT = header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (100000000000000,), }\n")
NUMBERS = np.zeros(650, np.float32).tobytes()
CALLS = header(b"{'descr': print('run'), 'fortran_order': False, 'shape': (650,), }\n")

LIES = {
    "100 w": (sends(lambda w: 100 * w), "times as long as usual"),
    "-10 w": (sends(lambda w: -10 * w), "times as long as usual"),
    "noise": (sends(noisy), "times as long as usual"),
    "3e38": (sends(lambda w: np.full_like(w, 3e38)), "times as long as usual"),
    "NaN": (sends(lambda w: w * np.nan), "its parameters are not finite"),
    "loss 1e6": (says(loss=1e6), "its loss is 1e+06"),
    "loss 1e308": (says(loss=1e308), "its loss is 1e+308"),
    "loss -1e300": (says(loss=-1e300), "loss: must be numbers of at least 0"),
    "samples 10**12": (says(samples=10**12), "samples = 1000000000000: must be"),
    "samples 2**63": (says(samples=2**63 - 1), "must be an integer of at least 1"),
    "samples + 10**6": (says(samples=10**6), "samples = 1000000: at its start it said"),
    "more metrics": (says(evil=3), "metrics must hold agent, samples, loss, not agent, evil, loss, samples"),
    "many losses": (says(loss=[1.0] * 10**5), "must be of shape [], got [100000]"),
    "zip": (raw(npz()), "magic string"),
    "400 TB": (raw(GIANT + b"x" * 2600), "its header says"),
    "a header that calls": (raw(CALLS + NUMBERS), "malformed node"),
    "400 TB announced": (raw(NUMBERS, shape=(10**14,)), "must be 650 float32 numbers, got 2600 bytes"),
    "objects": (raw(pickle.dumps([0.0] * 650), "object"), "must be 650 float32 numbers, got"),
    "long": (raw(b"x" * 10**6), "got 1000000 bytes"),
}  # fmt: skip

IN_EVERY_ROUND = ["100 w", "noise", "3e38", "loss 1e308", "samples 2**63", "400 TB"]

agent = ClientApp()


@agent.train()
def train(message: Message, context: Context) -> Message:
    answer = honest(message, context)
    LIES[IN_EVERY_ROUND[message.content["config"]["round"]]][0](answer.content)
    return answer


@agent.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    return honest(message, context)
