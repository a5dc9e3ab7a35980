"""What other processes are asked: small programs of Python, whose answer is a line of JSON.

They do what may crash or hang this one: imports of libraries, and what concerns a file system.
"""

from __future__ import annotations

_MAPPED = """\
import json, os, re, sys, time

def mapped(pattern):
    with open("/proc/self/maps") as file:
        paths = {line.split(None, 5)[5].strip() for line in file if "/" in line}
    return sorted({os.path.realpath(p) for p in paths if re.match(pattern, os.path.basename(p))})

def load_mpi4py():
    import mpi4py
    mpi4py.rc.initialize = mpi4py.rc.finalize = False
    from mpi4py import MPI
    return mpi4py, MPI

LIBMPI, LIBHDF5 = r"libmpi(ch)?[-.\\d]*\\.so|libmpi-", r"libhdf5(?!.*_hl).*\\.so"
"""

MPI = f"""\
{_MAPPED}
mpi4py, MPI = load_mpi4py()
library = MPI.Get_library_version()
print(json.dumps(dict(mpi4py=mpi4py.__version__, library=library, files=mapped(LIBMPI))))
"""

# A parallel h5py imports mpi4py, which must not start MPI.
HDF5 = f"""\
{_MAPPED}
try:
    load_mpi4py()
except Exception:
    pass
import h5py
print(json.dumps(dict(
    h5py=h5py.version.version,
    hdf5=h5py.version.hdf5_version,
    built=".".join(map(str, h5py.version.hdf5_built_version_tuple)),
    is_parallel=bool(h5py.get_config().mpi),
    mpi_files=mapped(LIBMPI),
    hdf5_files=mapped(LIBHDF5),
)))
"""

# Its argument is a folder.
PLACE = f"""\
{_MAPPED}
import fcntl, tempfile
answer = {{}}
with tempfile.TemporaryDirectory(prefix=".acme_mpi-doctor-", dir=sys.argv[1]) as folder:
    with open(os.path.join(folder, "file"), "wb") as file:
        file.write(b"1")
        file.flush()
        os.fsync(file.fileno())
        answer["clock_s"] = os.fstat(file.fileno()).st_mtime - time.time()
        for lock in (fcntl.flock, fcntl.lockf):
            try:
                lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                answer.setdefault("lock", f"{{lock.__name__}}: {{error}}")
    try:
        load_mpi4py()
    except Exception:
        pass
    try:
        import h5py
    except Exception:
        pass
    else:
        path = os.path.join(folder, "file.h5")
        try:
            for mode in "wr":
                h5py.File(path, mode, locking=True).close()
        except OSError as error:
            answer["hdf5"] = str(error)
print(json.dumps(answer))
"""

# One process reads the memory of another, as ranks of one node do; PR_SET_PTRACER is what Open MPI
# says, too.
MEMORY = """\
import ctypes, json, os

class Piece(ctypes.Structure):
    _fields_ = [("start", ctypes.c_void_p), ("n_bytes", ctypes.c_size_t)]

libc = ctypes.CDLL(None, use_errno=True)
word = ctypes.create_string_buffer(b"seen", 4)
libc.prctl(0x59616D61, ctypes.c_ulong(2**64 - 1), 0, 0, 0)
parent, child = os.getpid(), os.fork()
if child == 0:
    there, here = Piece(ctypes.addressof(word), 4), Piece()
    copy = ctypes.create_string_buffer(4)
    here.start, here.n_bytes = ctypes.addressof(copy), 4
    n = libc.process_vm_readv(parent, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
    os._exit(0 if n == 4 else ctypes.get_errno())
print(json.dumps(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
"""

# For an mpiexec: each rank tells which it is.
TRIAL = """\
from mpi4py import MPI
print(f"trial: rank {MPI.COMM_WORLD.Get_rank()} of {MPI.COMM_WORLD.Get_size()}", flush=True)
"""
