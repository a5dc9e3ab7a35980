"""Be one process of one side, once: ``python -m benchmarks.once JSON``.

JSON names the function, as "peers.rate", and its options. What it returns on rank 0 goes to the
file `FIGURES` in the working directory; where it returns nothing the whole program's time counts.
"""

import importlib
import inspect
import json
import os
import sys

from benchmarks import functions

FIGURES = "figures.json"
RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK")


def main():
    work = json.loads(sys.argv[1])
    module, name = work["measure"].split(".")
    measure = getattr(importlib.import_module(f"benchmarks.{module}"), name)
    # Only some ask for the time of the start, and for how long to measure.
    known = inspect.signature(measure).parameters
    options = {key: value for key, value in work["setting"].items() if key in known}
    options |= work["options"]
    if "func" in options:
        options["func"] = getattr(functions, options["func"])
    figures = measure(**options)
    rank = next((os.environ[name] for name in RANK_VARIABLES if name in os.environ), "0")
    if figures and rank == "0":
        with open(FIGURES, "w") as file:
            json.dump(figures, file)


if __name__ == "__main__":
    main()
