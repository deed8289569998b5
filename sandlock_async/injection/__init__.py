"""System calls that a frozen program is made to make, so that it never knows.

Some facts of a process only it can ask for: what its signal handlers are, where its
heap ends. A thread of it is made to clone(2), and the clone is asked. See
:mod:`sandlock_async.injection.interview` for how, and for what can go wrong.
"""
