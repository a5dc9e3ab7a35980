"""Workloads, peers and limits of scripts/bench.

`workloads` and `pool_workloads` say what is measured on whose side, `measuring` starts one process
(or one mpiexec) per side and repetition, `once` is such a process, `ours` (all ranks), `pools` (a
script that ranks serve), `peers` and `limits` are what it does there to `functions`, `ranks` is how
those of one program measure together, `processes` counts CPU time and memory, `added` says what of
the former a side adds, `showing` and `plot` make the tables and the picture.
"""
