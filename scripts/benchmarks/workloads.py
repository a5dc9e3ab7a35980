"""The table's rows: what is measured, on whose side, and what is to be reached."""

from benchmarks.pool_workloads import POOL_WORKLOADS
from benchmarks.workload import (
    ACME,
    EXECUTOR,
    JOBLIB,
    MPI_PEERS,
    POOL,
    Line,
    Side,
    Target,
    Workload,
)

GIB = 2**30
LOOP, RAW = "bare loop", "raw bytes, fsync"
CHUNKED = "mpi4py.futures, chunks"


def all_peers(measure, options, extra=()):
    """Return the sides of all peers; those of MPI have a master, and as many workers."""

    def side(name, peer, n_ranks=0):
        return Side(name, f"peers.{measure}", {"peer": peer, **options}, n_ranks)

    return (
        side(POOL, "pool"),
        side(EXECUTOR, "executor"),
        side(JOBLIB, "joblib"),
        side(MPI_PEERS[0], "mpi4py_futures", 3),
        *extra,
        side(MPI_PEERS[1], "schwimmbad", 3),
        side(ACME, "acme"),
    )


def dispatch(key, what, func, unit, targets=(), extra=()):
    """Return the workload of calls whose results are returned."""
    options = {"func": func, "n_tasks": None}
    sides = (
        Side("ours", "ours.rate", options, 2),
        *all_peers("rate", options, extra),
        Side(LOOP, "limits.rate", options),
    )
    return Workload(key, sides, (Line(what, "rate", unit, targets, limit=LOOP),))


def heavy_tail(n_tasks):
    options = {"n_tasks": n_tasks}
    limit = "a common counter"
    sides = (
        Side("ours", "ours.heavy_tail", options, 2),
        *all_peers("heavy_tail", options),
        Side(limit, "limits.heavy_tail", options),
    )
    what = f"{n_tasks} tasks of 5 ms, the last 500 ms: time / ideal list scheduling"
    return Workload("tail", sides, (Line(what, "ratio", "x", (Target("<=", 1.05),), limit=limit),))


def ours_in_files(func, n_tasks, quick_n_tasks, modes):
    """Return our sides, by the names of `modes` with the options of each."""
    quick = {"n_tasks": quick_n_tasks}
    return tuple(
        Side(name, "ours.files", {"func": func, "n_tasks": n_tasks, **options}, 2, quick)
        for name, options in modes.items()
    )


def scalars():
    modes = {"ours, payload per rank": {}, "ours, per computation": {"payload": "computation"}}
    rank, computation = modes
    calibrated = {"func": "scalar", "n_tasks": None}
    sides = (
        *ours_in_files("scalar", 5000, 2000, modes),
        Side(ACME, "peers.acme_files", calibrated),
        Side("Pool, file per task, unsynced", "peers.file_per_task", calibrated),
        Side(RAW, "limits.raw_scalars", {"func": "scalar", "n_tasks": 5000}),
    )
    unit, what = "results/s", "5000 scalars to files, "
    target = Target(">=", 50, (ACME,))
    return Workload(
        "scalars",
        sides,
        (
            Line(what + "payload per rank", "rate", unit, (target,), rank, RAW),
            Line(what + "per computation", "rate", unit, (), computation, RAW),
        ),
    )


def rows():
    shape = {"result_shape": [None]}
    modes = {"ours, payload": shape, "ours, single file": {**shape, "single_file": True}}
    payload, single = modes
    calibrated, n_tasks = {"func": "scalar", "n_tasks": None}, 1_000_000
    sides = (
        *ours_in_files("scalar", n_tasks, 200_000, modes),
        Side(
            "ACME, single file",
            "peers.acme_files",
            {**calibrated, "single_file": True, "result_shape": [None]},
        ),
        Side("Pool, written by the caller", "peers.rows_of_caller", calibrated),
        Side(RAW, "limits.raw_scalars", {"func": "scalar", "n_tasks": n_tasks}),
    )
    unit, targets, what = "rows/s", (Target(">=", 1e6),), "1e6 scalar rows, result_shape, "
    return Workload(
        "rows",
        sides,
        (
            Line(what + "payload per rank", "rate", unit, targets, payload, RAW),
            Line(what + "single_file", "rate", unit, targets, single, RAW),
        ),
    )


def arrays():
    modes = {
        "ours, payload per rank": {},
        "ours, per computation": {"payload": "computation"},
        "ours, single file, shape": {"single_file": True, "result_shape": [None, 1_000_000]},
        "ours, single file": {"single_file": True},
    }
    least = dict(zip(modes, (0.9, 0.9, 0.9, 0.7), strict=True))
    options, quick = {"func": "large", "n_tasks": 100}, {"n_tasks": 40}
    sides = (
        *ours_in_files("large", 100, 40, modes),
        Side("h5py in 2 processes, fsync", "peers.file_per_process", options, quick=quick),
        Side(ACME, "peers.acme_files", options, quick=quick),
        Side(RAW, "limits.raw", options, n_ranks=2, quick=quick),
    )
    lines = tuple(
        Line(
            f"100 x 8 MB, {name[6:]}",
            "rate",
            "results/s",
            (Target(">=", bound, (RAW,)),),
            name,
            RAW,
        )
        for name, bound in least.items()
    )
    return Workload("arrays", sides, lines, cache_bytes=GIB)


def argument():
    copy = "copying in one process"

    def sides(figure):
        def peer(name, how, n_bytes=GIB):
            options = {"how": how, "figure": figure, "n_bytes": n_bytes}
            return Side(name, "peers.delivery", options, quick={"n_bytes": n_bytes // 8})

        options, quick = {"n_bytes": GIB}, {"n_bytes": GIB // 8}
        return (
            Side("ours", f"ours.{figure}", options, 4, quick, timeout_s=300),
            peer("Pool(4), by fork", "pool"),
            peer(JOBLIB, "joblib"),
            peer("ACME, 1/8 GiB", "acme", GIB // 8),  # a whole one takes minutes
            *([Side(copy, "limits.copy", options, quick=quick)] if figure == "delivered" else []),
        )

    what = "one shared argument of 1 GiB, 4 ranks: "
    speed = Line(what + "delivered", "rate", "GB/s", (Target(">=", 1),), limit=copy)
    peak = "peak memory above base / its size"
    memory = Line(what + peak, "memory", "x", (Target("<=", 1.3),))
    return (
        Workload("argument", sides("delivered"), (speed,)),
        Workload("argument-memory", sides("memory"), (memory,), n_repetitions=1),
    )


def start_up():
    bare, options = "bare mpiexec -n 2", {"n_tasks": 4}
    in_memory = {**options, "write_worker_results": False}
    sides = (
        Side("ours, in memory", "ours.first_map", in_memory, 2),
        Side("ours, files", "ours.first_map", {**options, "output_dir": "files"}, 2),
        *all_peers("first_map", options),
        Side(bare, "import mpi4py.MPI, h5py", n_ranks=2),
    )
    targets, what = (Target("<=", 2, (bare,)),), "start-up, 4 trivial tasks, "
    return Workload(
        "startup",
        sides,
        (
            Line(what + "in memory", "seconds", "s", targets, "ours, in memory", bare),
            Line(what + "files", "seconds", "s", targets, "ours, files", bare),
        ),
    )


def crowd(n_ranks, n_tasks):
    bare = f"{n_ranks} bare ranks"
    quick = {"n_tasks": n_tasks // 4}
    sides = (
        Side("ours", "ours.crowd", {"n_tasks": n_tasks}, n_ranks, quick, timeout_s=300),
        Side(bare, "limits.bare_ranks", n_ranks=n_ranks, timeout_s=300),
        Side(LOOP, "limits.rate", {"func": "burn_5ms", "n_tasks": n_tasks}, quick=quick),
    )
    what, share = f"-n {n_ranks}: ", "% of a core"
    return Workload(
        "crowd",
        sides,
        (
            Line(
                what + "start-up, until the first map is done",
                "startup_s",
                "s",
                (Target("<=", 2, (bare,)),),
                limit=bare,
                added="startup_cpu_us",
            ),
            Line(
                what + f"{n_tasks} x 5 ms, first chunk to last result",
                "rate",
                "tasks/s",
                (Target(">=", 1 / 1.2, (LOOP,)),),
                limit=LOOP,
            ),
            Line(what + "a rank that waits", "idle", share, (Target("<", 1),), added=""),
            Line(
                what + "the master at 1000 requests/s",
                "master",
                share,
                (Target("<", 5),),
                added="",
            ),
        ),
        n_repetitions=3,
    )


def memory():
    sides = ours_in_files("scalar", 10_000_000, 1_000_000, {"ours": {"result_shape": [None]}})
    what = "1e7 rows: peak memory of rank 0"
    line = Line(what, "peak_mb", "MB", (Target("<=", 250),), added="")
    return Workload("memory", sides, (line,), n_repetitions=1)


def with_chunks():
    options = {"peer": "mpi4py_futures", "func": "empty", "n_tasks": None, "with_chunks": True}
    return Side(CHUNKED, "peers.rate", options, 3)


NEAR = (Target(">=", 0.97, (POOL, JOBLIB)),)
WORKLOADS = (
    start_up(),
    dispatch(
        "empty",
        "empty calls",
        "empty",
        "calls/s",
        (Target(">=", 1, (POOL,)), Target(">=", 10, (*MPI_PEERS, CHUNKED))),
        (with_chunks(),),
    ),
    dispatch("1ms", "tasks of 1 ms", "burn_1ms", "tasks/s", NEAR),
    dispatch("5ms", "tasks of 5 ms", "burn_5ms", "tasks/s", NEAR),
    dispatch("100ms", "tasks of 100 ms", "burn_100ms", "tasks/s"),
    heavy_tail(300),
    scalars(),
    rows(),
    arrays(),
    *argument(),
    crowd(64, 2000),
    memory(),
    *POOL_WORKLOADS,
)
