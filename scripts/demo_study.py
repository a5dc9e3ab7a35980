"""The study that scripts/demo runs: how far should a model of a disease be held back?

Data: 10 baseline variables of 442 patients, and how far their diabetes had progressed a year later
(Efron, Hastie, Johnstone and Tibshirani, 2004, Ann. Statist. 32, 407-499), as in scikit-learn.

A linear model of these variables, their squares and products (65 in all) learns noise as well. The
elastic net (Zou and Hastie, 2005, J. R. Stat. Soc. B 67, 301-320) holds its weights back, by a
`penalty`, of which a part, `l1_share`, sets weights to zero. Both are tried in every combination,
each on the same 40 random splits of the patients into three quarters to learn from and one quarter
to predict.
"""

import sys

import numpy as np

PENALTIES = np.geomspace(0.01, 3, 16)
L1_SHARES = [0.05, 0.35, 0.65, 0.95]
N_SPLITS = 40


def fit(variables, progression, penalty, l1_share, split):
    """Fit the model to three quarters of the patients and predict the others: one task.

    Parameters
    ----------
    variables, progression : (n_patients, n_variables) and (n_patients,) ndarray
        The data.
    penalty, l1_share : float
        Of the elastic net, > 0 and in [0, 1].
    split : int
        Which random split.

    Returns
    -------
    dict
        ``r2``: how much of the variance of the others' progression is predicted, 1 is all; and
        ``n_used``: how many of the 65 terms have a weight.
    """
    from sklearn.linear_model import ElasticNet
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    order = np.random.default_rng(split).permutation(len(progression))
    learned, others = np.split(order, [3 * len(order) // 4])
    net = ElasticNet(alpha=penalty, l1_ratio=l1_share, max_iter=20_000)
    scaled = StandardScaler(), PolynomialFeatures(2, include_bias=False), StandardScaler()
    model = make_pipeline(*scaled, net).fit(variables[learned], progression[learned])
    r2 = model.score(variables[others], progression[others])
    return {"r2": float(r2), "n_used": int(np.count_nonzero(net.coef_))}


def prepare(path):
    """Write the data to an .npz file whose names are the function's parameters."""
    from sklearn.datasets import load_diabetes

    patients = load_diabetes(scaled=False)
    progression = patients.target / patients.target.std()
    np.savez(
        path,
        variables=patients.data,
        progression=progression,
        penalty=PENALTIES,
        l1_share=L1_SHARES,
        split=np.arange(N_SPLITS),
    )
    print(f"demo: {len(patients.data)} patients, {patients.data.shape[1]} variables -> {path}")


def report(container, picture):
    """Print what the results say, and draw it."""
    import xarray

    found = xarray.open_dataset(container, engine="h5netcdf")
    r2 = found.r2.mean("split")
    print(f"\nResults: {container}\nTo load them:\n")
    print("    import xarray")
    print(f'    found = xarray.open_dataset("{container}", engine="h5netcdf")')
    print('    found.r2.mean("split").plot()\n')
    best, least = r2.isel(r2.argmax(...)), r2.isel(penalty=0, l1_share=0)
    n_used = float(found.n_used.mean("split").sel(penalty=best.penalty, l1_share=best.l1_share))
    print(
        "How far should a model of 442 patients, with 65 terms, be held back? Held back little, it"
    )
    print(
        f"predicts {float(least):.0%} of the variance of progression in patients it has not seen."
    )
    print(
        f"At best it predicts {float(best):.0%}: with a penalty of {float(best.penalty):.2g}, "
        f"{float(best.l1_share):.0%} of it as L1, which\nleaves a weight to {n_used:.0f} of the 65 "
        f"terms. (Means of {found.sizes['split']} splits.)"
    )
    draw(found, picture)
    print(f"\nPicture: {picture}")


def draw(found, path):
    """Draw how well the model predicts, and how many terms it uses, for each penalty."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    for l1_share in found.l1_share.values:
        of_share = found.sel(l1_share=l1_share)
        mean = of_share.r2.mean("split")
        error = of_share.r2.std("split") / np.sqrt(found.sizes["split"])
        (line,) = left.plot(found.penalty, mean, label=f"{l1_share:.0%}")
        left.fill_between(
            found.penalty, mean - error, mean + error, alpha=0.2, color=line.get_color()
        )
        right.plot(found.penalty, of_share.n_used.mean("split"), color=line.get_color())
    left.set(xscale="log", xlabel="penalty", ylabel="variance predicted (R²)")
    left.set_title("Patients that the model has not seen")
    left.legend(title="L1 share")
    right.set(xlabel="penalty", ylabel="terms with a weight", ylim=(0, 66))
    right.set_title("Terms that it uses, of 65")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    {"prepare": prepare, "report": report}[sys.argv[1]](*sys.argv[2:])
