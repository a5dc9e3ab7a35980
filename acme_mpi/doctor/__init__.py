"""What is wrong here with MPI, HDF5, launchers and folders: checks, and what they have found."""
