"""What starts ranks from a process that is none of them: this machine, Slurm, Grid Engine."""
