"""What the command line says: options, commands on a run's directory, and its own process."""
