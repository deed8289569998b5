"""System calls that the standard library lacks: ctypes, no policy, plain OSError.

Every binding states its ``argtypes`` and ``restype``. Two loaders of the same
C library decide what the other Python threads may do meanwhile (see
:mod:`sandlock_async.kernel.libc`).
"""
