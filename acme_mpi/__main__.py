"""``python -m acme_mpi``: the command line, see `cli.main`."""

from acme_mpi.cli.main import main

if __name__ == "__main__":
    main()
