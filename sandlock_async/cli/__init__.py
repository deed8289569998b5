"""The command line: one file a command, what they print apart from what they do.

A command parses its arguments (rich-click) to a :class:`~.job.Job`; :mod:`.app`
runs it, shows its :class:`~.output.Answer` and turns every failure to an exit code.
"""

from sandlock_async.cli.app import run as run
