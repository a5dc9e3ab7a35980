"""A script that gives the pools of the job to the packages that take pools, as their users do.

``pool_consumers.py NAME ...`` prints a line of JSON: the facts of each consumer, or the error that
it has ended with.
"""

import asyncio
import concurrent.futures
import json
import os
import sys
import traceback
from multiprocessing import TimeoutError
from pathlib import Path

import numpy as np

import acme_mpi

SCRIPT = os.getpid()


class SerialPool:
    """What dynesty takes for a pool of two, in one process."""

    size = 2

    def map(self, func, items):
        return list(map(func, items))


def square(x):
    return x * x


def refuse_three(x):
    if x == 3:
        raise ValueError("three")
    return x


def log_prob(point, data):
    return -0.5 * float(np.sum((point - data) ** 2))


def bowl(point):
    return float(np.sum((np.asarray(point) - 1) ** 2))


def log_likelihood(point):
    return -0.5 * float(np.sum(point**2)) / 0.01


def unit_to_prior(unit):
    return 2 * unit - 1


def is_elsewhere(estimator=None, X=None, y=None):
    """Score an estimator by the process that asks."""
    return float(os.getpid() != SCRIPT)


def nested(n):
    import joblib

    backend, _ = joblib.parallel.get_active_backend()
    return type(backend).__name__, joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(-1) for _ in "ab")


def wait_for_ever(x):
    import threading

    threading.Event().wait()


def emcee():
    import emcee

    def chain(pool):
        np.random.seed(1)
        start = np.random.randn(8, 2)
        sampler = emcee.EnsembleSampler(8, 2, log_prob, args=[np.array([1.0, 2.0])], pool=pool)
        sampler.run_mcmc(start, 20)
        return sampler.get_chain()

    with acme_mpi.Pool() as pool:
        return {"same chain": np.array_equal(chain(pool), chain(None))}


def dynesty():
    import dynesty

    def log_evidence(pool, queue_size):
        sampler = dynesty.NestedSampler(
            log_likelihood,
            unit_to_prior,
            2,
            nlive=40,
            pool=pool,
            queue_size=queue_size,
            rstate=np.random.default_rng(1),
        )
        sampler.run_nested(print_progress=False, maxiter=150)
        return sampler.queue_size, float(sampler.results.logz[-1])

    with acme_mpi.Pool() as pool:
        return {
            "size": pool.size,
            "told": log_evidence(pool, 2),
            "found": log_evidence(pool, None),
            "serial": log_evidence(SerialPool(), 2),
        }


def scipy():
    from scipy.optimize import brute, differential_evolution

    def evolved(workers):
        bounds = [(-3, 3), (-3, 3)]
        found = differential_evolution(
            bowl, bounds, rng=1, maxiter=10, polish=False, updating="deferred", workers=workers
        )
        return [*found.x.tolist(), found.nfev]

    def forced(workers):
        return brute(bowl, [(-2, 2), (-2, 2)], Ns=5, finish=None, workers=workers).tolist()

    with acme_mpi.Pool() as pool:
        return {
            "same evolution": evolved(pool.map) == evolved(1),
            "minimum": forced(pool.map),
            "same minimum": forced(pool.map) == forced(1),
        }


def sklearn():
    import joblib
    from sklearn.datasets import load_iris
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.svm import SVC

    X, y = load_iris(return_X_y=True)

    def searched():
        return GridSearchCV(SVC(), {"C": [0.1, 1, 10], "kernel": ["linear", "rbf"]}, cv=3).fit(X, y)

    here = searched()
    acme_mpi.register_joblib()
    with joblib.parallel_config("acme_mpi"):
        there = searched()
        scores = cross_val_score(SVC(), X, y, cv=3)
        elsewhere = cross_val_score(SVC(), X, y, cv=3, scoring=is_elsewhere)
    return {
        "same best": here.best_params_ == there.best_params_,
        "same scores": np.array_equal(
            here.cv_results_["mean_test_score"], there.cv_results_["mean_test_score"]
        ),
        "same cross validation": np.array_equal(scores, cross_val_score(SVC(), X, y, cv=3)),
        "elsewhere": elsewhere.tolist(),
    }


def joblib():
    from joblib import Parallel, delayed, effective_n_jobs, parallel_config

    acme_mpi.register_joblib()
    squares = [square(x) for x in range(50)]

    def parallel(**options):
        return Parallel(**options)(delayed(square)(x) for x in range(50))

    def error_of(func, **options):
        try:
            Parallel(**options)(delayed(func)(x) for x in range(6))
        except Exception as error:
            return [type(error).__name__, str(error), type(error.__cause__).__name__]

    facts: dict[str, object] = {}
    with parallel_config("acme_mpi"):
        facts["jobs"] = [effective_n_jobs(n) for n in (None, -1, 1, 2, 100, -2)]
        facts["list"] = parallel() == squares
        facts["generator"] = list(parallel(return_as="generator")) == squares
        facts["unordered"] = sorted(parallel(return_as="generator_unordered")) == squares
        facts["elsewhere"] = min(Parallel()(delayed(is_elsewhere)() for _ in range(4)))
        facts["raised"] = error_of(refuse_three)
        facts["timeout"] = error_of(wait_for_ever, timeout=0.1)[0] == TimeoutError.__name__
        facts["crash"] = error_of(crash)[0]
        facts["nested"] = Parallel()(delayed(nested)(2) for _ in range(2))
        first, second = parallel(return_as="generator"), parallel(return_as="generator")
        facts["two at once"] = [*map(list, zip(first, second, strict=True))] == [
            [x, x] for x in squares
        ]
        with Parallel() as several:
            calls = [several(delayed(square)(x) for x in range(5)) for _ in range(3)]
        facts["several calls"] = calls == [squares[:5]] * 3
    return facts


def crash(x):
    os.abort()


def schwimmbad():
    import schwimmbad
    import schwimmbad.utils

    def choose_pool(mpi):
        return acme_mpi.Pool() if mpi else schwimmbad.choose_pool(mpi=False, processes=1)

    def main(pool):
        told: list[int] = []
        with pool:
            if not pool.is_master():
                pool.wait()
                sys.exit(0)
            values = list(pool.map(square, [1, 2, 3, 4], callback=told.append))
        return values, sorted(told)

    with acme_mpi.Pool() as pool:
        batches = pool.batched_map(list, list(range(5)))
    return {
        "ranks": main(choose_pool(mpi=True)),
        "serial": main(choose_pool(mpi=False)),
        "batches": batches,
        "same batches": batches
        == [*map(list, schwimmbad.utils.batch_tasks(2, data=list(range(5))))],
    }


def pypoolparty():
    """Do what its tutorial does, with other constructors."""
    jobs = [[3, 4, 56, 7], [22, 5, 4, 5, 7], [11, 2, 545, 235, 6, 3], [22, 45, 6, 4]]
    results = []
    for job in jobs:
        result = np.std(job)
        results.append(result)

    pool = acme_mpi.Pool(2)
    results_using_ranks = pool.map(np.std, jobs)
    assert results == results_using_ranks

    import tutorial_for_pypoolparty

    work_dir = "telescope"
    tutorial_for_pypoolparty.init(work_dir=work_dir)
    jobs = tutorial_for_pypoolparty.make_jobs(work_dir=work_dir)
    return_codes = pool.map(tutorial_for_pypoolparty.run_job, jobs)
    pool.close()
    pool.join()
    with acme_mpi.Pool(on_error="none") as lenient:
        return {
            "first": results_using_ranks[0],
            "return codes": return_codes,
            "sizes": [
                int(path.read_text()) for path in sorted(Path(work_dir, "results").iterdir())
            ],
            "none": lenient.map(refuse_three, [1, 3]),
        }


def futures():
    with acme_mpi.Executor() as executor:
        numbers = [executor.submit(square, x) for x in range(10)]
        done, not_done = concurrent.futures.wait(numbers)
        more = [executor.submit(square, x) for x in range(10)]
        completed = [future.result() for future in concurrent.futures.as_completed(more)]

        mixed = [executor.submit(refuse_three, x) for x in (3, 1)]
        failed, _ = concurrent.futures.wait(mixed, return_when="FIRST_EXCEPTION")

        async def gathered():
            loop = asyncio.get_running_loop()
            return await asyncio.gather(
                asyncio.wrap_future(executor.submit(square, 3)),
                loop.run_in_executor(executor, square, 4),
                asyncio.wrap_future(executor.submit(refuse_three, 3)),
                return_exceptions=True,
            )

        return {
            "done": len(done),
            "not done": len(not_done),
            "completed": sorted(completed),
            "failed": mixed[0] in failed,
            "asyncio": [str(value) for value in asyncio.run(gathered())],
        }


if __name__ == "__main__":
    facts = {}
    for name in sys.argv[1:]:
        try:
            facts[name] = globals()[name]()
        except Exception:
            facts[name] = {"error": traceback.format_exc()}
    print(json.dumps(facts))
