"""What starts ranks from a process that is none of them: a launcher on this machine, or Slurm."""
