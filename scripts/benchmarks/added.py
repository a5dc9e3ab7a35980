"""What sides add: the CPU time of all their processes, less that of the function itself."""

CPU, ADDED = "cpu_us", "added_us"


def tell_added(workload, figures):
    """Put what each side adds beside its CPU time, both in microseconds per task.

    The function's own is what a bare loop took in the same repetition; where there is none, what
    the function uses on purpose.

    Parameters
    ----------
    workload : Workload
        Whose sides were measured.
    figures : dict of str to (dict or None)
        Of one repetition, by the names of the sides; None: it failed.
    """
    limits = [figures[side.name] for side in workload.sides if side.is_limit]
    measured = [each["own_us"] for each in limits if each and "own_us" in each]
    for each in figures.values():
        if each and CPU in each:
            # Nothing is known of the function if the loop that would have told it has failed.
            stated_us = each.get("own_us", None if None in limits else 0.0)
            own_us = measured[0] if measured else stated_us
            if own_us is not None:
                each[ADDED] = each[CPU] - own_us
