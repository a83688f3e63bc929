"""What every exercise does: check whatever it is given, count, keep what is solved, show what solves it."""

import _thread
import contextlib
import io
import multiprocessing
import re
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch
from all_exercises import EXERCISES, SLOW, each
from torch.linalg import multi_dot

import gmfl_lite as gl
from gmfl_lite.exercises.exercise import Note


@pytest.mark.parametrize("exercise", [one for one in EXERCISES if one.wants_function], ids=lambda one: one.name)
def test_functions_that_stop_or_return_nothing(exercise):
    def forgets(*_):
        value = 1  # noqa: F841

    def stops(*_):
        missing = {}
        return missing["w"]

    assert "return" in exercise.check(forgets).text
    assert re.search("in its line 3 (for|with) .*: `KeyError: 'w'`", exercise.check(stops).text)
    assert "without calling it" in exercise.check(3.0).text
    for verdict in (exercise.check(forgets), exercise.check(stops), exercise.check(3.0)):
        assert verdict.status == "incorrect"
    assert exercise.check(lambda *_: ...).status == "not attempted"


@each
def test_no_answer_however_odd_breaks_the_check(exercise):
    odd = [0, "", "x", [], (), [[]], {"w": 1}, [1, "a"], np.nan, np.zeros((2, 2)), object(), str, len, True]
    for answer in odd if exercise.name in SLOW else [*odd, {}]:  # {} is a partition that loses
        assert exercise.check(answer).status == "incorrect", answer
    assert exercise.check(lambda *_: object()).status == exercise.check(lambda *_: {}).status == "incorrect"


@pytest.mark.parametrize("exercise", [one for one in EXERCISES if one.wants_function], ids=lambda one: one.name)
def test_a_function_that_leaves_is_told_so_and_the_kernel_stays(exercise):
    def leaves(*_):
        sys.exit(3)

    def interrupts(*_):
        raise KeyboardInterrupt

    for function, words in ((leaves, "exits in its line 2 .*use `return`"), (interrupts, "interrupted in its line 2")):
        verdict = exercise.check(function)
        assert verdict.status == "incorrect"
        assert re.search(words, verdict.text), verdict.text


def test_an_endless_loop_ends_in_words_when_it_is_interrupted():
    def endless(*_):
        while True:
            pass

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.3, _thread.interrupt_main)
    timer.start()
    try:
        verdict = gl.exercises.server_step.check(endless)
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)
    assert verdict.status == "incorrect"
    assert "Does every loop in it come to an end?" in verdict.text


class Rude:
    """What raises whenever it is looked at."""

    def _raise(self, *_, **__):
        raise RuntimeError("rude")

    __repr__ = __str__ = __array__ = __len__ = __iter__ = __float__ = __bool__ = __eq__ = _raise
    __hash__ = object.__hash__


class RudeError(Exception):
    def __str__(self):
        raise RuntimeError("rude")


@each
def test_answers_that_hold_themselves_or_raise_when_looked_at_are_incorrect(exercise):
    own, deep, mapping, long = [], [1.0], {}, list(range(30))
    own.append(own)
    for _ in range(10_000):
        deep = [deep]
    mapping["w"] = mapping
    long[1] = long

    def raises(*_):
        raise RudeError

    for answer in (own, deep, mapping, long, {"uniform": own}, (own,), Rude(), [Rude()], {"w": Rude()}, Rude, raises):
        verdict = exercise.check(answer)
        assert verdict.status == "incorrect"
        assert len(verdict.text) < 1000
    for odd in (own, deep, mapping, Rude()):
        assert exercise.check(lambda *_, odd=odd: odd).status == "incorrect"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437"])
def test_a_terminal_that_knows_few_signs_prints_all_that_is_said(encoding):
    printed = io.BytesIO()
    terminal = io.TextIOWrapper(printed, encoding=encoding, write_through=True)
    with contextlib.redirect_stdout(terminal):
        for one in EXERCISES:
            print(one.hint(), one.solution(), one.check(...), one.check("ν" * 100), Note(one._why), sep="\n")
    text = printed.getvalue().decode(encoding)
    assert "?" * 3 not in text
    assert encoding != "ascii" or re.search(r"\balpha\b|\bnu\b|1/2", text)


def test_progress_counts_attempts_and_keeps_what_is_solved():
    one = gl.exercises.first_order_length
    one.check(...)
    one.check(64)
    assert gl.exercises.progress().loc[one.name].tolist() == [one.notebook, "incorrect", 1, "", ""]
    one.hint()
    one.check(8)
    one.check(4)
    assert gl.exercises.progress().loc[one.name].tolist() == [one.notebook, "correct", 3, "seen", ""]
    assert one.answer() == 8
    assert list(gl.exercises.progress().index) == [one.name for one in EXERCISES]
    assert not gl.exercises.progress().drop(one.name)["checks"].any()


def test_the_answer_in_use_is_the_students_once_it_is_right():
    def mine(params, updates, server_lr):
        average = gl.aggregate(updates)
        return {name: (1 - server_lr) * params[name] + server_lr * average[name] for name in params}

    exercise = gl.exercises.server_step
    assert exercise.answer() is exercise.solve
    exercise.check(lambda params, updates, server_lr: params)
    assert exercise.answer() is exercise.solve
    assert exercise.check(mine).status == "correct"
    assert exercise.answer() is mine


def test_answers_in_either_precision():
    """Notebook 03 computes in float64, the others in float32; checks go by what the notebook does."""
    names = ("jacobian_product", "truncated_gradient", "proximal_update", "server_step")
    try:
        torch.set_default_dtype(torch.float64)
        for name in names:
            one = getattr(gl.exercises, name)
            assert one.check(one.solve).status == "correct"
        multiplied = gl.exercises.jacobian_product.check(lambda factors, g: multi_dot([torch.eye(2)] * 2 + factors) @ g)
        assert multiplied.status == "correct"  # torch.eye is in float64 here
    finally:
        torch.set_default_dtype(torch.float32)


def test_partly_filled_in_answers_say_what_is_left():
    verdict = gl.exercises.two_averages.check({"uniform": 3.0, "samples": ...})
    assert (verdict.status, verdict.text) == ("not attempted", "**Not attempted yet.** Still to be filled in: samples.")
    assert gl.exercises.cost_of_a_step.check({"exact": (6, ...)}).status == "not attempted"


def test_verdicts_read_well_in_a_notebook_and_in_a_terminal():
    verdict = gl.exercises.first_order_length.check(64)
    assert repr(verdict) == verdict._repr_markdown_() == verdict.text
    assert repr(gl.exercises.first_order_length).startswith("Exercise first_order_length of notebook 03-")


def test_the_face_names_every_exercise():
    machinery = {"CONTEST", "Exercise", "Note", "Verdict", "every", "progress"}
    assert set(gl.exercises.__all__) == {one.name for one in EXERCISES} | machinery
    assert all(vars(gl.exercises)[one.name] is one for one in EXERCISES), "an editor completes what is imported there"


@pytest.mark.slow
def test_workers_register_none():
    small = gl.Experiment(model="softmax", n_agents=2, n_new_agents=1, agents_per_round=2, rounds=1)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        assert set(gl.sweep([small], executor=executor, progress=False)["status"]) == {"completed"}
        loaded = executor.submit(eval, "sorted(__import__('sys').modules)").result()
    assert "gmfl_lite.runner" in loaded
    assert not [name for name in loaded if name.startswith("gmfl_lite.exercises")]
