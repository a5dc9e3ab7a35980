"""Streams: tasks that are added while others run; who calls what, on all ranks."""
