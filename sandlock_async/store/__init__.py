"""Checkpoint directories: stage, stream, fsync, commit, replace, list."""
