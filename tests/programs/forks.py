"""Starts and ends children all the time, some of which have children themselves."""

import os
import sys
import time

from status import ERRORS, PROGRESS, READY, Status

status = Status(sys.argv[1])


def child(depth: int) -> None:
    if depth:
        pid = os.fork()
        if not pid:
            child(depth - 1)
        os.waitpid(pid, 0)
    time.sleep(0.002)
    os._exit(7)


while True:
    pids = []
    for depth in (0, 1, 2):
        pid = os.fork()
        if not pid:
            child(depth)
        pids.append(pid)
    for pid in pids:
        _, code = os.waitpid(pid, 0)
        if os.waitstatus_to_exitcode(code) != 7:
            status[ERRORS] += 1
    status[PROGRESS] += 1
    status[READY] = 1
