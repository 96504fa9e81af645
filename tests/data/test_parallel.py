"""Work that is mapped over processes ends with the process that mapped it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from espnet_prune.base.errors import InputError
from espnet_prune.running.parallel import ordered_map

SCRIPT = """
import os, sys, time
from pathlib import Path
from espnet_prune.running.parallel import ordered_map

def work(folder):
    Path(folder, str(os.getpid())).touch()
    time.sleep(60)

list(ordered_map(work, [sys.argv[1]] * 2, 2, "sleeping", chunk=1))
"""


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_killed_parent_takes_its_workers_along(tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    process = subprocess.Popen(command)
    end = time.monotonic() + 30
    while len(workers := list(tmp_path.iterdir())) < 2:
        assert time.monotonic() < end
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    while any(is_alive(worker.name) for worker in workers):
        assert time.monotonic() < end
        time.sleep(0.1)


def end(number):
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_killed_worker_says_that_memory_was_too_little():
    told = "^counting: a process of it was killed, .* want of memory -> .*--nj"
    with pytest.raises(InputError, match=told):
        list(ordered_map(end, [1, 2, 3], 2, "counting", chunk=1))
