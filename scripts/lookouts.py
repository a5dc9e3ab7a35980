"""The study of docs/lookouts.md: from which towers is most of a land seen?

  python scripts/lookouts.py PICTURE

Data: the heights of 32 by 30 km around the Jacksboro fault in Tennessee, as in matplotlib: 172 by
201 of them, each the mean of four.

What is seen of a place (its viewshed) is computed along 480 rays. The first tower is the one that
sees most, each other one that which adds most.
"""

import contextlib
import sys
import tempfile

import numpy as np

CELL_M = (185.3, 148.9)  # from north to south, and from west to east
TOWER_M = 30
REACH_M = 12_000  # farther away no smoke is seen
STEEPEST = 20  # degrees
EVERY = 4  # cells between the places that are tried
N_TOWERS = 5


def look(heights, south, east):
    """Find what is seen from a tower: one task.

    Parameters
    ----------
    heights : (n_rows, n_columns) ndarray
        In metres.
    south, east : int
        Row and column of the tower.

    Returns
    -------
    dict
        ``share``: how much of the land is seen, in [0, 1]; ``height``: of the ground, in metres;
        and ``seen``: (n_rows * n_columns / 8,) ndarray of uint8, a bit for each cell.

    Raises
    ------
    ValueError
        The ground is too steep for a tower.
    """
    around = heights[max(south - 1, 0) : south + 2, max(east - 1, 0) : east + 2]
    slope = np.degrees(np.arctan(np.hypot(*np.gradient(around, *CELL_M)).mean()))
    if slope > STEEPEST:
        raise ValueError(f"too steep for a tower: {slope:.0f} degrees")
    angle = np.linspace(0, 2 * np.pi, 480, endpoint=False)[:, None]
    distance = np.arange(160, REACH_M, 160)
    row = np.rint(south + np.sin(angle) * distance / CELL_M[0]).astype(int)
    column = np.rint(east + np.cos(angle) * distance / CELL_M[1]).astype(int)
    is_land = (row >= 0) & (row < len(heights)) & (column >= 0) & (column < heights.shape[1])
    row, column = np.where(is_land, row, south), np.where(is_land, column, east)
    rise = (heights[row, column] - heights[south, east] - TOWER_M) / distance
    is_seen = is_land & (rise >= np.maximum.accumulate(rise, axis=1))
    seen = np.zeros(heights.shape, bool)
    seen[row[is_seen], column[is_seen]] = True
    return {"share": seen.mean(), "height": heights[south, east], "seen": np.packbits(seen)}


def read_heights():
    """Return the heights, from north to south and from west to east."""
    from matplotlib.cbook import get_sample_data

    heights = get_sample_data("jacksboro_fault_dem.npz")["elevation"]
    return heights[:, :402].reshape(172, 2, 201, 2).mean(axis=(1, 3))


def compute(heights, folder):
    """Call the function for places all over the land, and return all results."""
    import acme_mpi

    n_rows, n_columns = heights.shape
    places = acme_mpi.Grid(south=range(0, n_rows, EVERY), east=range(0, n_columns, EVERY))
    with contextlib.suppress(acme_mpi.TaskError):  # the run has said that some are too steep
        acme_mpi.map(look, heights, places, result_shape="auto", output_dir=folder)
    return acme_mpi.open(folder)


def choose(table, seen, shape):
    """Return which cells each tower sees, by its task: the best one first."""
    tasks = table.index[table.error.isna()]
    seen = seen.values.reshape(len(table), -1)[tasks].astype(np.uint8)
    chosen, unseen = {}, ~np.zeros_like(seen[0])
    for _ in range(N_TOWERS):
        best = np.argmax(np.bitwise_count(seen & unseen).sum(axis=1))
        chosen[tasks[best]] = np.unpackbits(seen[best], count=np.prod(shape)).reshape(shape)
        unseen &= ~seen[best]
    return chosen


def report(table, chosen):
    """Print where the towers stand, and what they see."""
    print(table.loc[list(chosen), ["south", "east", "height", "share"]].round(2))
    print(f"Together they see {np.any(list(chosen.values()), axis=0).mean():.0%} of the land.")
    print(f"No tower can stand on {table.error.notna().sum()} of {len(table)} places.")


def draw(heights, table, chosen, path):
    """Draw how much is seen from each place, and what the towers see."""
    from matplotlib.colors import LightSource, ListedColormap
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    km = 0, heights.shape[1] * CELL_M[1] / 1e3, heights.shape[0] * CELL_M[0] / 1e3, 0
    share = table.pivot(index="south", columns="east", values="share")
    image = left.imshow(100 * share, extent=km, cmap="magma")
    left.set_facecolor("lightskyblue")
    left.set(xlabel="east (km)", ylabel="south (km)", title="Seen from one tower (blue: too steep)")
    figure.colorbar(image, ax=left, label="% of the land", shrink=0.8)

    shade = LightSource().hillshade(heights, vert_exag=2, dx=CELL_M[1], dy=CELL_M[0])
    right.imshow(shade, extent=km, cmap="gray", vmin=-0.3)
    together = np.sum(list(chosen.values()), axis=0)
    colors = ListedColormap(["tab:orange", "tab:red", "darkred"])
    counts = np.ma.masked_equal(together.clip(max=3), 0)
    image = right.imshow(counts, extent=km, cmap=colors, vmin=0.5, vmax=3.5, alpha=0.45)
    places = table.loc[list(chosen)]
    right.plot(places.east * CELL_M[1] / 1e3, places.south * CELL_M[0] / 1e3, "^w", mec="black")
    right.set(xlabel="east (km)", title=f"Seen from the best {len(chosen)} together")
    bar = figure.colorbar(image, ax=right, label="by how many towers", shrink=0.8, ticks=[1, 2, 3])
    bar.set_ticklabels(["1", "2", "3 or more"])
    figure.savefig(path, dpi=120)


def main(picture):
    """Compute, print and draw."""
    heights = read_heights()
    with tempfile.TemporaryDirectory() as folder:
        results = compute(heights, folder)
        table = results.to_pandas()
        chosen = choose(table, results.to_xarray().seen, heights.shape)
    report(table, chosen)
    draw(heights, table, chosen, picture)


if __name__ == "__main__":
    main(sys.argv[1])
