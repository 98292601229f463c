"""Ctrl-C as a question."""

import os
import signal
import threading

import pytest

from tpr_jax.interrupt import noticed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noticed_and_the_second_stops(number):
    before = signal.getsignal(number)
    with noticed() as asked:
        assert not asked()
        os.kill(os.getpid(), number)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_in_another_thread_nothing_is_changed():
    seen = []

    def work():
        with noticed() as asked:
            seen.append((asked(), signal.getsignal(signal.SIGINT)))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]
