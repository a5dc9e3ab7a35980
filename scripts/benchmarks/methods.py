"""How the methods of pools and executors become one ``run(func, inputs)``, for ours and peers."""


def run_of(workers, method):
    """Return a function that has a method of a pool or an executor call all, and waits.

    Parameters
    ----------
    workers : object
        The pool or the executor.
    method : {"map", "imap", "imap_unordered", "submit"}
        Which one; all have it with its own default of the chunks.
    """
    if method == "submit":
        return lambda func, inputs: submit_all(workers, func, inputs)
    call = getattr(workers, method)
    return lambda func, inputs: list(call(func, inputs))


def submit_all(executor, func, inputs):
    return [future.result() for future in [executor.submit(func, x) for x in inputs]]
