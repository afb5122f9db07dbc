from __future__ import annotations

import threading
import time

from stream.log.kafka.writer import Debouncer


def test_it_can_be_closed_at_any_moment() -> None:
    """Also right before it would have made a call: it then makes none, and comes to its end."""

    def close_soon() -> None:
        for number in range(400):
            debouncer = Debouncer(lambda: None, 0.000_5)
            debouncer.ask()
            time.sleep(0.000_5 + number % 20 * 0.000_01)
            debouncer.close()

    thread = threading.Thread(target=close_soon, daemon=True)
    thread.start()
    thread.join(50)
    assert not thread.is_alive()
