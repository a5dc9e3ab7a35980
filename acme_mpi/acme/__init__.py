"""ACME's dialect: `ParallelMap`, its keywords, its clients and its view of the arguments."""
