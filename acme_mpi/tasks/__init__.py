"""Which calls a run consists of, and how functions and arguments travel."""
