"""Workloads, peers and limits of scripts/bench.

`workloads` and `pool_workloads` say what is measured on whose side, `measuring` starts one process
(or one mpiexec) per side and repetition, `once` is such a process, `ours` (all ranks), `pools` (a
script that ranks serve), `peers` and `limits` are what it does there to `functions`, `showing` and
`plot` make the table and the picture.
"""
