"""The study that scripts/demo runs: which measurements go with the progression of diabetes?

Data: 10 baseline variables of 442 patients, and how far their disease had progressed a year later
(Efron, Hastie, Johnstone and Tibshirani, 2004, Ann. Statist. 32, 407-499), as in scikit-learn.

Question: which of the ten still goes with progression when the other nine are accounted for?
Statistic: the partial correlation. Its null distribution: what the variables not tested explain of
progression stays, the residuals are shuffled among the patients (Freedman and Lane, 1983, J. Bus.
Econ. Stat. 1, 292-298). One shuffle serves all ten variables, and the largest of the ten absolute
values is what each has to beat, so the chance of even one false finding is what the p-value says
(Westfall and Young, 1993).
"""

import sys

import numpy as np

SEED = 20040407
CHUNK = 50  # shuffles at a time; larger arrays would be new pages from the kernel each time
NAMES = {
    "age": "age",
    "sex": "sex",
    "bmi": "body mass index",
    "bp": "mean blood pressure",
    "s1": "total cholesterol",
    "s2": "LDL cholesterol",
    "s3": "HDL cholesterol",
    "s4": "cholesterol / HDL ratio",
    "s5": "triglycerides (log)",
    "s6": "blood sugar",
}


def split_off(variables, progression, j):
    """Return what the variables other than `j` leave unexplained, and a basis of what they span.

    Parameters
    ----------
    variables, progression : (n_patients, n_variables) and (n_patients,) ndarray
        The data.
    j : int
        Column of the variable that is tested.

    Returns
    -------
    tuple of ndarray
        Residuals of variable `j`, scaled to length 1, and of progression, (n_patients,) each;
        orthonormal basis (n_patients, n_variables) of the other variables and the intercept.
    """
    others = np.delete(variables, j, axis=1)
    basis, _ = np.linalg.qr(np.column_stack([np.ones(len(others)), others - others.mean(axis=0)]))
    residual = variables[:, j] - basis @ (basis.T @ variables[:, j])
    rest = progression - basis @ (basis.T @ progression)
    return residual / np.linalg.norm(residual), rest, basis


def partial_correlations(residual, rest, basis):
    """Return the correlation of `residual` with each row of `rest`, adjusted for `basis`."""
    # Shuffled residuals are no longer orthogonal to the basis, hence the second term.
    squares = (rest**2).sum(axis=-1) - ((rest @ basis) ** 2).sum(axis=-1)
    return rest @ residual / np.sqrt(squares)


def observed_correlations(variables, progression):
    """Return the partial correlation of each variable with progression."""
    parts = [split_off(variables, progression, j) for j in range(variables.shape[1])]
    return np.array([partial_correlations(*each) for each in parts])


def shuffle_correlations(variables, progression, n_shuffles, taskID):
    """Shuffle the patients `n_shuffles` times: one task.

    Returns
    -------
    tuple of ndarray
        Largest absolute partial correlation of each shuffle, (n_shuffles,); and how many shuffles
        reached the observed absolute value of each variable, (n_variables,).
    """
    n_patients, n_variables = variables.shape
    parts = [split_off(variables, progression, j) for j in range(n_variables)]
    observed = np.abs(observed_correlations(variables, progression))
    # The stream depends on the task, not on the rank that runs it: any number of ranks gives the
    # same answer, and no two tasks share their random numbers.
    rng = np.random.default_rng(np.random.SeedSequence(SEED, spawn_key=(taskID,)))

    largest, n_reached = [], np.zeros(n_variables, dtype=np.int64)
    for start in range(0, n_shuffles, CHUNK):
        in_order = np.tile(np.arange(n_patients), (min(CHUNK, n_shuffles - start), 1))
        shuffles = rng.permuted(in_order, axis=1)
        shuffled = np.abs(
            [
                partial_correlations(residual, rest[shuffles], basis)
                for residual, rest, basis in parts
            ]
        )
        largest.append(shuffled.max(axis=0))
        n_reached += (shuffled >= observed[:, None]).sum(axis=1)
    return np.concatenate(largest), n_reached


def prepare(path):
    """Write the data to an .npz file whose names are the function's parameters."""
    from sklearn.datasets import load_diabetes

    patients = load_diabetes(scaled=False)
    np.savez(path, variables=patients.data, progression=patients.target)
    print(f"demo: {len(patients.data)} patients, {patients.data.shape[1]} variables -> {path}")


def report(arguments, container):
    """Print where the results are, what the container holds, and what they say."""
    import h5py

    with h5py.File(container) as file:
        keys = list(file)
        largest = np.concatenate([file[f"{key}/result_0"][()] for key in keys])
        n_reached = np.sum([file[f"{key}/result_1"][()] for key in keys], axis=0)
        print(f"\nResults: {container}")
        print(f"It holds {len(keys)} groups, {keys[0]} ... {keys[-1]}, one per task, each with")
        for name, meaning in (
            ("result_0", "largest absolute correlation of each shuffle"),
            ("result_1", "shuffles that reached the data's, per variable"),
        ):
            dataset = file[f"{keys[0]}/{name}"]
            print(f"  {name}  shape {dataset.shape!s:8} {dataset.dtype!s:8} {meaning}")
    print(f'To read it: h5py.File("{container}")["{keys[0]}/result_0"][()]\n')

    with np.load(arguments) as data:
        variables, progression = data["variables"], data["progression"]
    alone = np.corrcoef(variables.T, progression)[-1, :-1]
    adjusted = observed_correlations(variables, progression)
    # The data as they are count as one of the shuffles, so that no p-value is zero.
    n_shuffles = len(largest)
    p_single = (1 + n_reached) / (1 + n_shuffles)
    p_family = (1 + (largest >= np.abs(adjusted)[:, None]).sum(axis=1)) / (1 + n_shuffles)
    print_answer(n_shuffles, alone, adjusted, p_single, p_family)


def print_answer(n_shuffles, alone, adjusted, p_single, p_family):
    """Print the table of the variables, clearest finding first, and one sentence."""
    print("What goes with the progression of diabetes a year later? Correlations of 10 variables")
    print(f"in 442 patients; p-values from {n_shuffles:,} shuffles.\n")
    print(f"{'':24}{'':>10}{'adjusted for':>15}{'p of':>12}{'p, family':>12}")
    print(f"{'variable':24}{'alone':>10}{'the other nine':>15}{'this one':>12}{'of ten':>12}")
    order = sorted(range(len(NAMES)), key=lambda j: (p_family[j], -abs(adjusted[j])))
    labels = list(NAMES.values())
    for j in order:
        print(
            f"{labels[j]:24}{alone[j]:+10.2f}{adjusted[j]:+15.2f}{p_single[j]:12.6f}"
            f"{p_family[j]:12.6f}{'  *' if p_family[j] < 0.05 else ''}"
        )
    found = [labels[j] for j in order if p_family[j] < 0.05]
    print(
        f"\nWhen the other nine are accounted for, {len(found)} of the {len(NAMES)} variables go "
        f"with progression (*):\n{', '.join(found)}; the chance of even one false finding is "
        "about 5 % at most."
    )


if __name__ == "__main__":
    {"prepare": prepare, "report": report}[sys.argv[1]](*sys.argv[2:])
