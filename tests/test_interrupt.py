"""Ctrl-C as a question."""

import os
import signal
import threading

import pytest

from tpr_jax.interrupt import noticed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noticed_and_the_second_stops(number):
    before = signal.getsignal(number)
    with noticed() as notice:
        assert not notice and notice() is False
        os.kill(os.getpid(), number)
        assert notice and notice() is True and notice.number == number
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_where_all_is_saved_it_stops_at_once():
    with noticed() as notice:
        with pytest.raises(KeyboardInterrupt), notice.at_once():
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("went on")
        assert notice.number == signal.SIGTERM
        # One that came before it was safe to stop counts too.
        with pytest.raises(KeyboardInterrupt), notice.at_once():
            pytest.fail("went on")


def test_afterwards_it_is_patient_again():
    with noticed() as notice, notice.at_once(), notice.at_once(False):
        os.kill(os.getpid(), signal.SIGINT)
    with noticed() as notice:
        with notice.at_once():
            pass
        os.kill(os.getpid(), signal.SIGINT)
        assert notice.number == signal.SIGINT


def test_in_another_thread_nothing_is_changed():
    seen = []

    def work():
        with noticed() as notice:
            seen.append((bool(notice), signal.getsignal(signal.SIGINT)))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]
