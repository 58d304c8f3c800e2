"""Run a command that ends with whoever started it: its standard input closes when that process dies, however it dies.

Run as a file, ``python watchdog.py COMMAND …``, with a pipe as standard input.
"""

import signal
import subprocess
import sys
from threading import Thread

PATIENCE_SECONDS = 3


def run(command: list[str]) -> int:
    """Run a command until it ends, or standard input does, or SIGTERM comes, and return its exit status."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    Thread(target=_end_with_input, args=(process,), daemon=True).start()
    return process.wait()


def _end_with_input(process: subprocess.Popen[bytes]) -> None:
    sys.stdin.read()
    process.terminate()
    try:
        process.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
