"""What control groups tell of memory and processors, in both versions."""

from __future__ import annotations

import pytest

from acme_mpi.linux.cgroup import bytes_left, cpus_allowed, memory_groups

pytestmark = pytest.mark.once

GB = 10**9


@pytest.fixture
def place(tmp_path):
    """Return a function that makes groups from a text of membership and files by their names."""

    def make(membership, **groups):
        (tmp_path / "membership").write_text(membership)
        for group, files in groups.items():
            folder = tmp_path / "root" / group
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                (folder / name).write_text(text)
        return str(tmp_path / "membership"), str(tmp_path / "root")

    return make


def version_2(limit, used, cached=0):
    return {
        "memory.max": f"{limit}\n",
        "memory.current": f"{used}\n",
        "memory.stat": f"anon 5\ninactive_file {cached}\n",
    }


def test_groups_are_told_from_the_inside_out(place):
    membership, root = place("0::/job/step\n")

    assert [str(group) for group in memory_groups(membership, root)][:3] == [
        f"{root}/job/step",
        f"{root}/job",
        root,
    ]


def test_the_tightest_group_counts(place):
    groups = {"job": version_2(4 * GB, 3 * GB), "job/step": version_2("max", 2 * GB)}

    assert bytes_left(*place("0::/job/step\n", **groups)) == GB


def test_cached_files_can_be_had_back(place):
    assert bytes_left(*place("0::/job\n", job=version_2(4 * GB, 4 * GB, GB))) == GB


def test_a_group_over_its_limit_leaves_nothing(place):
    assert bytes_left(*place("0::/job\n", job=version_2(GB, 2 * GB))) == 0


def test_version_1(place):
    files = {
        "memory.limit_in_bytes": f"{4 * GB}",
        "memory.usage_in_bytes": f"{GB}",
        "memory.stat": "total_inactive_file 7\n",
    }

    assert bytes_left(*place("5:cpu:/\n4:cpu,memory:/job\n", **{"memory/job": files})) == 3 * GB + 7


@pytest.mark.parametrize("membership", ["", "0::/\n", "3:cpu:/job\n"])
def test_without_a_limit_there_is_none(place, membership):
    assert bytes_left(*place(membership)) == float("inf")


def test_without_groups_there_is_no_limit():
    assert bytes_left("/nowhere/at/all") == float("inf")


def test_the_least_time_of_processors_counts(place):
    groups = {"job": {"cpu.max": "150000 100000\n"}, "job/step": {"cpu.max": "max 100000\n"}}

    assert cpus_allowed(*place("0::/job/step\n", **groups)) == 1.5


def test_version_1_tells_time_in_two_files(place):
    files = {"cpu.cfs_quota_us": "300000\n", "cpu.cfs_period_us": "100000\n"}

    assert cpus_allowed(*place("4:cpu,cpuacct:/job\n", **{"cpu/job": files})) == 3


@pytest.mark.parametrize("files", [{}, {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"}])
def test_without_a_limit_all_time_is_allowed(place, files):
    assert cpus_allowed(*place("4:cpu:/job\n", **{"cpu/job": files})) == float("inf")
