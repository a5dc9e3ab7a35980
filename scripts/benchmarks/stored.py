"""Figures in a JSON file: all repetitions of all sides, and how they were made."""

import json
from dataclasses import asdict
from pathlib import Path

from benchmarks.measuring import Measured


def write_results(path, setting, results):
    figures = {
        key: {name: asdict(each) for name, each in measured.items()}
        for key, measured in results.items()
    }
    Path(path).write_text(json.dumps({"setting": setting, "workloads": figures}, indent=1) + "\n")


def read_results(path):
    """Return the setting, and what sides have reached by workload and name."""
    content = json.loads(Path(path).read_text())
    return content["setting"], {
        key: {name: Measured(**each) for name, each in measured.items()}
        for key, measured in content["workloads"].items()
    }
