"""The study of docs/spectra.md: which regions of a brain at rest share their slow rhythms?

  python scripts/spectra.py PICTURE

Data: a functional MRI of one person who lay still and looked at a cross, as in nitime: the mean
signal of 28 regions, 14 on the left and the same 14 on the right, 250 images at 1.89 s each.

Spectra are estimated with several tapers (Thomson, 1982, Proc. IEEE 70, 1055-1096). Between signals
that have nothing in common the coherence of K tapers is 1/K on average.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

INTERVAL_S = 1.89
BANDWIDTH = 6  # half of it, in steps of frequency
N_TAPERS = 2 * BANDWIDTH - 1
BAND_HZ = slice(0.01, 0.1)  # where slow rhythms at rest are found


def cross_spectrum(signals, one, other):
    """Estimate how strongly two signals vary together at each frequency: one task.

    Parameters
    ----------
    signals : dict of str to (n_images,) ndarray
        By region, with mean 0 and variance 1.
    one, other : str
        Two of the regions; the same one twice has its power.

    Returns
    -------
    dict
        ``cross``: (n_images // 2 + 1,) ndarray, in 1/Hz.
    """
    from scipy.signal.windows import dpss

    tapers = dpss(len(signals[one]), BANDWIDTH, N_TAPERS)
    first, second = (np.fft.rfft(tapers * signals[name]) for name in (one, other))
    return {"cross": 2 * INTERVAL_S * np.abs(np.mean(first * second.conj(), axis=0))}


def read_signals():
    """Return the regions' signals by their names."""
    import nitime

    path = Path(nitime.__file__).parent / "data" / "fmri_timeseries.csv"
    names = path.read_text().partition("\n")[0].replace('"', "").strip().split(",")
    table = np.loadtxt(path, delimiter=",", skiprows=1)
    table = (table - table.mean(axis=0)) / table.std(axis=0)
    # The first three are means of white matter, of ventricles, and of all of the brain.
    return dict(zip(names[3:], table.T[3:], strict=True))


def compute(signals, folder):
    """Call the function for every pair of regions; return an array with named axes."""
    import acme_mpi

    pairs = acme_mpi.Grid(one=list(signals), other=list(signals))
    acme_mpi.map(cross_spectrum, signals, pairs, result_shape="auto", output_dir=folder)
    cross = acme_mpi.open(folder).to_xarray().cross.load()
    n_images = len(next(iter(signals.values())))
    (axis,) = set(cross.dims) - {"one", "other"}
    return cross.rename({axis: "hz"}).assign_coords(hz=np.fft.rfftfreq(n_images, INTERVAL_S))


def find_coherence(cross):
    """Return power by region and frequency, and coherence by pair, as the mean over the band."""
    regions = cross.one.values
    power = np.stack([cross.sel(one=name, other=name) for name in regions])
    shared = cross.copy(data=cross.values**2 / (power[:, None] * power[None]))
    return power, shared.sel(hz=BAND_HZ).mean("hz").values


def draw(cross, power, coherence, path):
    """Draw the spectra of all regions, and what each pair shares."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.2])
    left.plot(cross.hz[1:], power.T[1:], color="tab:blue", alpha=0.25, linewidth=0.8)
    left.plot(cross.hz[1:], np.median(power, axis=0)[1:], color="black", label="median")
    left.axvspan(BAND_HZ.start, BAND_HZ.stop, color="tab:orange", alpha=0.15, linewidth=0)
    left.set(yscale="log", xlabel="frequency (Hz)", ylabel="power (1/Hz)")
    left.set_title(f"Spectra of {len(power)} regions")
    left.legend()
    without_self = np.where(np.eye(len(coherence)), np.nan, coherence)
    image = right.imshow(without_self, cmap="viridis", vmin=1 / N_TAPERS)
    right.set_xticks(range(len(coherence)), cross.one.values, rotation=90, fontsize=6)
    right.set_yticks(range(len(coherence)), cross.one.values, fontsize=6)
    right.set_title(f"Coherence from {BAND_HZ.start} to {BAND_HZ.stop} Hz")
    figure.colorbar(image, ax=right)
    figure.savefig(path, dpi=120)


def report(coherence):
    """Print what a region shares with the same one on the other side, and with all others."""
    half = len(coherence) // 2
    is_pair = np.eye(len(coherence), k=half, dtype=bool)
    others = coherence[:half, half:][~np.eye(half, dtype=bool)]
    print(f"A region and the same one on the other side: {coherence[is_pair].mean():.2f}")
    print(f"A region and another one on the other side:  {others.mean():.2f}")
    print(f"Signals with nothing in common:              {1 / N_TAPERS:.2f}")


def main(picture):
    """Compute, print and draw."""
    with tempfile.TemporaryDirectory() as folder:
        cross = compute(read_signals(), folder)
    power, coherence = find_coherence(cross)
    report(coherence)
    draw(cross, power, coherence, picture)


if __name__ == "__main__":
    main(sys.argv[1])
