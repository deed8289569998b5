"""Executes itself in a loop while a second thread runs. ``argv[2]``: generation."""

import os
import sys
import threading
import time

from status import ERRORS, PROGRESS, READY, Status

status = Status(sys.argv[1])
generation = int(sys.argv[2])
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
if status[PROGRESS] != generation:
    status[ERRORS] += 1
status[PROGRESS] = generation + 1
status[READY] = 1
os.execv(sys.executable, [sys.executable, __file__, sys.argv[1], str(generation + 1)])
