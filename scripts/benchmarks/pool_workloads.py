"""The rows of tasks that arrive one by one: pools and executors in scripts, served by ranks."""

from benchmarks.workload import (
    EXECUTOR,
    JOBLIB,
    MPI_PEERS,
    POOL,
    Line,
    Side,
    Target,
    Workload,
)

FUTURES, SCHWIMMBAD = MPI_PEERS
FEW = {"n_maps": 20}  # --quick
N_IDLE = 64


def by(method, func):
    return {"func": func, "n_tasks": None, "method": method}


def peer(name, kind, options, n_ranks=0, quick=None):
    return Side(name, "peers.rate", {"peer": kind, **options}, n_ranks, quick or {})


def pool_map():
    options = by("map", "empty")
    called = {"func": "empty", "n_tasks": None}
    names = {2: "ours, -n 2", 3: "ours, -n 3"}
    sides = (
        *(Side(name, "pools.rate", options, n) for n, name in names.items()),
        peer(POOL, "pool", called),
        peer(JOBLIB, "joblib", called),
        peer("mpi4py.util.pool", "mpi4py_pool", called, 3),
        peer(FUTURES, "mpi4py_futures", called, 3),
        peer(SCHWIMMBAD, "schwimmbad", called, 3),
    )
    targets = (Target(">=", 1, (POOL,)),)
    lines = (
        Line(f"Pool.map of empty calls, -n {n}", "rate", "calls/s", targets, name)
        for n, name in names.items()
    )
    return Workload("pool-map", sides, tuple(lines))


def submit():
    options = by("submit", "empty")
    sides = (
        Side("ours", "pools.rate", options, 3),
        peer(EXECUTOR, "executor", options),
        peer(FUTURES, "mpi4py_futures", options, 3),
    )
    targets = (Target(">=", 5, (FUTURES,)), Target(">=", 1, (EXECUTOR,)))
    what = "Executor.submit of empty calls, -n 3"
    return Workload("submit", sides, (Line(what, "rate", "calls/s", targets),))


def imap():
    sides = (
        Side("ours", "pools.rate", by("imap", "empty"), 2),
        peer(POOL, "pool", by("imap", "empty")),
        peer(FUTURES, "mpi4py_futures", by("map", "empty"), 3),
    )
    targets = (Target(">=", 5, (FUTURES,)),)
    what = "imap(chunksize=1) of empty calls"
    return Workload("imap", sides, (Line(what, "rate", "calls/s", targets),))


def imap_5ms():
    options = by("imap_unordered", "burn_5ms")
    sides = (
        Side("ours", "pools.rate", options, 2),
        peer(POOL, "pool", options),
    )
    targets = (Target(">=", 0.97, (POOL,)),)
    what = "imap_unordered of 5 ms tasks"
    return Workload("imap-5ms", sides, (Line(what, "rate", "tasks/s", targets),))


def map_peers(options):
    """Return the peers that are known for small maps."""

    def side(name, kind, n_ranks=0):
        return Side(name, "peers.small_maps", {"peer": kind, **options}, n_ranks, FEW)

    return (
        side(POOL, "pool"),
        side(FUTURES, "mpi4py_futures", 3),
        side(SCHWIMMBAD, "schwimmbad", 3),
    )


def small_maps():
    options = {"func": "burn_1ms", "n_tasks": 32, "n_maps": 500}
    sides = (Side("ours", "pools.small_maps", options, 2, FEW), *map_peers(options))
    targets = (Target(">=", 0.95, (POOL,)),)
    what = "500 times Pool.map of 32 tasks of 1 ms"
    return Workload("small-maps", sides, (Line(what, "rate", "maps/s", targets),))


def small_maps_16():
    options = {"func": "empty", "n_tasks": 16, "n_maps": 500}
    run, pool = "ours, acme_mpi.map", "ours, Pool.map"
    sides = (
        Side(run, "pools.small_runs", options, 3, FEW),
        Side(pool, "pools.small_maps", options, 3, FEW),
        *map_peers(options),
    )
    what, unit = "of 16 empty tasks, -n 3", "maps/s"
    return Workload(
        "small-maps-16",
        sides,
        (
            Line(f"acme_mpi.map {what}, kept ranks", "rate", unit, (), run),
            Line(f"Pool.map {what}", "rate", unit, (), pool),
        ),
    )


def closure():
    options, quick = {"n_steps": 10}, {"n_steps": 1}
    sides = (
        Side("ours", "pools.closure", options, 2, quick),
        Side(POOL, "peers.closure", options, quick=quick),
    )
    what = "emcee's tutorial, 8 MB of data: time with it in the closure / in a global"
    return Workload("closure", sides, (Line(what, "ratio", "x", (Target("<=", 1.1),)),))


def idle():
    options, quick = {"seconds": 20}, {"seconds": 3}
    side = Side("ours", "pools.idle", options, N_IDLE, quick, timeout_s=300)
    what = f"-n {N_IDLE}: an open pool, nothing to do for 20 s, all ranks together"
    line = Line(what, "idle", "% of a core", (Target("<", 1),))
    return Workload("idle", (side,), (line,), n_repetitions=3)


POOL_WORKLOADS = (
    pool_map(),
    submit(),
    imap(),
    imap_5ms(),
    small_maps(),
    small_maps_16(),
    closure(),
    idle(),
)
