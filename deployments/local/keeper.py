"""Run a command, and leave nothing of it behind.

Run as a file, ``python keeper.py SIGNAL SECONDS COMMAND …``, with a pipe as standard input. When the pipe closes, as it
does when whoever holds it dies, or SIGTERM comes, the command gets the signal and so many seconds to end. Whatever it
started and is still there when it has ended is killed, as a container or a systemd unit does.
"""

import os
import secrets
import signal
import subprocess
import sys
from threading import Thread

import psutil

MARK = "LOCAL_TOPOLOGY_KEPT_BY"
"""The environment variable by which everything that a command started is found, whoever its parent is by then."""


def keep(command: list[str], stop_signal: int, patience_seconds: float) -> int:
    """Run a command until it ends or is told to, kill what it left, and return its exit status."""
    mark = secrets.token_hex(8)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env={**os.environ, MARK: mark})

    def stop() -> None:
        process.send_signal(stop_signal)
        try:
            process.wait(patience_seconds)
        except subprocess.TimeoutExpired:
            process.kill()

    def stop_with_input() -> None:
        sys.stdin.read()
        stop()

    signal.signal(signal.SIGTERM, lambda *_: Thread(target=stop, daemon=True).start())
    Thread(target=stop_with_input, daemon=True).start()
    status = process.wait()
    for left in marked(mark):
        left.kill()
    return status


def marked(mark: str) -> list[psutil.Process]:
    """Return the processes that carry a mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                found.append(process)
        except psutil.Error:
            continue  # gone meanwhile, or another user's
    return found


if __name__ == "__main__":
    sys.exit(keep(sys.argv[3:], signal.Signals[sys.argv[1]], float(sys.argv[2])))
