"""emcee's tutorial on parallel sampling: many maps of few calls, each of which needs the data.

It is the pattern alone, so that ours and peers need no emcee: its wrapper holds the function with
``args=``, and each step maps one half of the walkers after the other.
"""

from typing import Any

from benchmarks import functions
from benchmarks.processes import used
from benchmarks.rates import seconds

N_WALKERS = 32
CALL_S = 0.0065  # the tutorial takes 5 to 8 ms
N_ROUNDS = 4

kept: Any = None  # the data, in a pool's processes


class LogProbability:
    """What emcee maps: the function with its ``args=``, pickled with each chunk by many pools."""

    def __init__(self, func, args):
        self.func, self.args = func, args

    def __call__(self, theta):
        return self.func(theta, *self.args)


def log_probability(theta, data):
    functions.burn(CALL_S)
    return -0.5 * sum(x * x for x in theta) + 0.0 * data[0, 0]


def log_probability_of_kept(theta):
    return log_probability(theta, kept)


def keep(data):
    global kept
    kept = data


def make_data():
    import numpy as np

    return np.random.default_rng(1).standard_normal((5000, 200))


def closure(run, data, n_steps):
    """Return the time of steps with the data in the closure / of those with a global.

    Both take turns, `N_ROUNDS` times, after a small call that has started the workers.

    Parameters
    ----------
    run : callable
        ``run(func, inputs)``: the map of a pool whose workers have called `keep`.
    data : array
        What the function needs.
    n_steps : int
        Of both, in each round.
    """
    with_data = LogProbability(log_probability, (data,))
    with_global = LogProbability(log_probability_of_kept, ())
    run(functions.empty, range(N_WALKERS))
    data_s = data_cpu_s = global_s = 0.0
    for _ in range(N_ROUNDS):
        figures = used(sample, run, with_data, n_steps)
        data_s += figures["seconds"]
        data_cpu_s += figures["cpu_s"]
        global_s += seconds(sample, run, with_global, n_steps)
    n_calls = N_ROUNDS * n_steps * N_WALKERS
    return {
        "seconds": data_s,
        "seconds_global": global_s,
        "ratio": data_s / global_s,
        "cpu_us": 1e6 * data_cpu_s / n_calls,
        "own_us": 1e6 * CALL_S,
    }


def sample(run, func, n_steps):
    for step in range(n_steps):
        for half in range(2):
            run(func, [(step, half, walker) for walker in range(N_WALKERS // 2)])
