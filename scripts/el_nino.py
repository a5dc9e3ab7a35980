"""The study of docs/el_nino.md: does El Niño return more regularly than chance would have it?

  python scripts/el_nino.py PICTURE

Data: the temperature at the surface of the eastern Pacific at the equator (Niño 3), four values a
year from 1950 to 2015, as in PyWavelets.

A wavelet tells how strong each period is at each time (Torrence and Compo, 1998, Bull. Am.
Meteorol. Soc. 79, 61-78). A sea without any rhythm has strong periods as well: what it has warmed
up to, it forgets slowly. So the same is computed for many series that forget as slowly, and are
random otherwise.
"""

import sys

import numpy as np

INTERVAL_YEARS = 0.25
PERIODS_YEARS = np.geomspace(0.6, 24, 60)
N_SERIES = 1000


def wavelet_power(series):
    """Return how strong each period is at each time, with Morlet's wavelet.

    Parameters
    ----------
    series : (n,) ndarray
        With mean 0 and variance 1.

    Returns
    -------
    (n_periods, n) ndarray
        White noise has 1 on average.
    """
    n_padded = 2 * len(series)  # so that the end does not meet the beginning
    omega = 2 * np.pi * np.fft.fftfreq(n_padded, INTERVAL_YEARS)
    scale = PERIODS_YEARS[:, None] * (6 + np.sqrt(38)) / (4 * np.pi)
    shape = np.pi**-0.25 * np.exp(-((scale * omega - 6) ** 2) / 2) * (omega > 0)
    wavelets = np.sqrt(2 * np.pi * scale / INTERVAL_YEARS) * shape
    coefficients = np.fft.ifft(np.fft.fft(series, n_padded) * wavelets)
    return np.abs(coefficients[:, : len(series)]) ** 2


def red_noise(memory, n, rng):
    """Make up a series that has no rhythm, and find its periods: one task.

    Parameters
    ----------
    memory : float
        How much of a value is left in the next one, in [0, 1).
    n : int
        How many values.
    rng : numpy.random.Generator
        Of this task.

    Returns
    -------
    dict
        ``once``: power of each period in the middle, where no end is near; and ``always``: the
        mean over all times. Both (n_periods,) ndarray.
    """
    series = rng.standard_normal(n)
    series[0] /= np.sqrt(1 - memory**2)  # as if it had gone on for long
    for k in range(1, n):
        series[k] += memory * series[k - 1]
    power = wavelet_power((series - series.mean()) / series.std())
    return {"once": power[:, n // 2], "always": power.mean(axis=1)}


def read_series():
    """Return the years, and the temperature without the seasons, with mean 0 and variance 1."""
    import pywt.data

    years, temperature = pywt.data.nino()
    by_season = temperature.reshape(-1, 4)
    series = (by_season - by_season.mean(axis=0)).ravel()
    return years, series / series.std()


def compute(series):
    """Return what 95 of 100 random series do not reach, for each period: once, and always."""
    import acme_mpi

    memory = np.corrcoef(series[1:], series[:-1])[0, 1]
    random = acme_mpi.map(
        red_noise,
        memory,
        len(series),
        n_inputs=N_SERIES,
        seed=1950,
        result_shape="auto",
        write_worker_results=False,
    )
    return {name: np.quantile(values, 0.95, axis=0) for name, values in random.items()}


def report(power, limits):
    """Print which periods are stronger than chance."""
    found = PERIODS_YEARS[power.mean(axis=1) > limits["always"]]
    print(f"Stronger in the mean than in 95 % of {N_SERIES} random series:", end=" ")
    print(f"periods from {found.min():.1f} to {found.max():.1f} years" if found.size else "none")


def draw(years, series, power, limits, path):
    """Draw the series, the strength of each period over time, and its mean."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import ScalarFormatter

    figure = Figure(figsize=(9, 5), layout="constrained")
    shape = {"height_ratios": [1, 2], "width_ratios": [3, 1]}
    panels = figure.subplot_mosaic([["series", "."], ["power", "mean"]], **shape)
    top, left, right = panels.values()
    top.fill_between(years, series, 0, where=series > 0, color="tab:red", interpolate=True)
    top.fill_between(years, series, 0, where=series < 0, color="tab:blue", interpolate=True)
    top.set(ylabel="in s.d.", xlim=years[[0, -1]], yticks=[-2, 0, 2, 4])
    top.set_title("Temperature of the eastern Pacific without the seasons")

    image = left.contourf(years, PERIODS_YEARS, np.log2(power), np.arange(-4, 6), extend="both")
    strong = power / limits["once"][:, None]
    left.contour(years, PERIODS_YEARS, strong, [1], colors="black", linewidths=1.5)
    # Longer periods than this see beyond an end, where there is nothing.
    reach = np.minimum(years - years[0], years[-1] - years) * 4 * np.pi / (6 + np.sqrt(38)) / 2**0.5
    left.fill_between(years, reach, PERIODS_YEARS[-1], color="white", alpha=0.6, linewidth=0)
    left.set(yscale="log", xlabel="year", ylabel="period (years)", xlim=years[[0, -1]])
    left.set_ylim(PERIODS_YEARS[-1], PERIODS_YEARS[0])
    figure.colorbar(image, ax=left, label="power (log2)", location="bottom", aspect=40)

    right.plot(power.mean(axis=1), PERIODS_YEARS, color="black", label="El Niño")
    right.plot(limits["always"], PERIODS_YEARS, "--", color="tab:red", label="95 % of chance")
    right.set(yscale="log", xlabel="mean power", ylim=left.get_ylim())
    right.legend(fontsize="small")
    for axes in (left, right):
        axes.set_yticks([1, 2, 4, 8, 16])
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.minorticks_off()
    figure.savefig(path, dpi=120)


def main(picture):
    """Compute, print and draw."""
    years, series = read_series()
    power = wavelet_power(series)
    limits = compute(series)
    report(power, limits)
    draw(years, series, power, limits, picture)


if __name__ == "__main__":
    main(sys.argv[1])
