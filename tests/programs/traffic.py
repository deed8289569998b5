"""Numbers that run through a pipe, a stream and a datagram socket pair, one after the
other; the readers check that none is missing. FIRST and SECOND count writes and reads.
"""

import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable

from status import ERRORS, FIRST, PROGRESS, READY, SECOND, Status

NUMBER = struct.Struct("=Q")


def write(send: Callable[[bytes], object]) -> None:
    number = 0
    while True:
        number += 1
        send(NUMBER.pack(number))
        status[FIRST] += 1
        if number % 256 == 0:
            time.sleep(0.001)


def read(receive: Callable[[int], bytes]) -> None:
    number = 0
    while True:
        data = receive(NUMBER.size)
        while len(data) < NUMBER.size:
            data += receive(NUMBER.size - len(data))
        number += 1
        if NUMBER.unpack(data)[0] != number:
            status[ERRORS] += 1
            return
        status[SECOND] += 1
        status[PROGRESS] += 1
        if number % 100 == 0:
            time.sleep(0.001)


status = Status(sys.argv[1])
pipe_read, pipe_write = os.pipe()
stream = socket.socketpair()
datagrams = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
for work, way in (
    (write, lambda data: os.write(pipe_write, data)),
    (read, lambda size: os.read(pipe_read, size)),
    (write, stream[0].sendall),
    (read, stream[1].recv),
    (write, datagrams[0].send),
    (read, datagrams[1].recv),
):
    threading.Thread(target=work, args=(way,), daemon=True).start()
status[READY] = 1
threading.Event().wait()
