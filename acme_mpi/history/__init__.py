"""What the dot folder says of runs; h5py is not needed for any of it."""
