"""One run, from the first index to the closed container: master, workers, and their schedule."""
