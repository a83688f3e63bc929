"""The background worker: the latest job wins, one at a time, whatever a job does."""

import threading
from functools import partial

import pytest
from panel_helpers import threads, until

from gmfl_lite.explorer.latest_wins import LatestWins


def test_worker_does_the_last_job_only_and_one_at_a_time():
    done, at_work, most = [], 0, 0

    def job(number: int, stop: threading.Event) -> None:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        stop.wait(0.05 if number == 199 else 60)
        at_work -= 1
        if not stop.is_set():
            done.append(number)

    worker = LatestWins("gmfl_lite test", on_error=pytest.fail)
    for number in range(200):
        worker.submit(partial(job, number))
    assert worker.wait(60)
    assert done == [199]
    assert most == 1
    until(lambda: not threads())


def test_worker_tells_errors_and_goes_on():
    errors, done = [], []
    worker = LatestWins("gmfl_lite test", on_error=errors.append)
    worker.submit(lambda stop: 1 / 0)
    assert worker.wait(60)
    worker.submit(lambda stop: done.append(1))
    assert worker.wait(60)
    assert [type(error) for error in errors] == [ZeroDivisionError]
    assert done == [1]


def test_worker_stops_waits_and_closes():
    worker = LatestWins("gmfl_lite test", on_error=pytest.fail)
    started = threading.Event()
    stopped, forgotten = [], []

    def job(stop: threading.Event) -> None:
        started.set()
        assert stop.wait(60)

    worker.submit(job)
    assert started.wait(60)
    assert worker.wait(timeout=0.05) is False
    for stops in (True, False):
        worker.submit(lambda stop: stopped.append(stop.is_set()))
        if stops:
            worker.stop()
        assert worker.wait(60)
    assert stopped == [True, False], "one that waits is told that it was stopped; the next one was not"
    started.clear()
    worker.submit(job)
    assert started.wait(60)
    worker.submit(forgotten.append)
    worker.close()
    assert worker.wait(60)
    worker.submit(forgotten.append)
    assert worker.wait(0)
    assert forgotten == []


def test_a_worker_outlives_even_an_error_that_cannot_be_told(capsys):
    worker = LatestWins("gmfl_lite test", on_error=lambda error: 1 / 0)
    worker.submit(lambda stop: {}["lost"])
    assert worker.wait(60)
    assert "ZeroDivisionError" in capsys.readouterr().err
    done = []
    worker.submit(done.append)
    assert worker.wait(60)
    assert len(done) == 1
