"""What the process that holds a POC waits for."""

from __future__ import annotations

import socket
import threading
import time

from nc_medfl.federation.environments.poc_process import _listens, free_port


def test_it_waits_until_the_server_listens() -> None:
    port, server = free_port(), socket.socket()

    def listen_later() -> None:
        time.sleep(0.7)
        server.bind(("127.0.0.1", port))
        server.listen()

    thread = threading.Thread(target=listen_later)
    thread.start()
    try:
        assert _listens(port, lambda: True)
    finally:
        thread.join()
        server.close()


def test_it_does_not_wait_for_a_server_that_has_ended() -> None:
    assert not _listens(free_port(), lambda: False)
