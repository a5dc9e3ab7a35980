"""Arguments in files of MATLAB and netCDF, which are HDF5 with conventions of their own."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from acme_mpi import InputError
from acme_mpi.tasks.argument_files import load_arguments

pytestmark = pytest.mark.once


class MatFile:
    """A file as MATLAB's ``save -v7.3`` writes it: header in a user block, axes reversed."""

    def __init__(self, path):
        self.path = path
        self.file = h5py.File(path, "w", userblock_size=512)

    def add(self, where, name, data, kind, **attributes):
        dataset = where.create_dataset(name, data=data)
        dataset.attrs["MATLAB_class"] = np.bytes_(kind)
        for key, value in attributes.items():
            dataset.attrs[f"MATLAB_{key}"] = value
        return dataset

    def array(self, name, values, kind="double"):
        return self.add(self.file, name, np.atleast_2d(values).T, kind)

    def text(self, name, text, where=None):
        units = np.frombuffer(text.encode("utf-16-le"), "<u2")[:, None]
        where = self.file if where is None else where
        return self.add(where, name, units, "char", int_decode=np.int32(2))

    def cell(self, name, texts):
        inner = self.file.require_group("#refs#")
        references = [self.text(f"{name}{k}", text, inner).ref for k, text in enumerate(texts)]
        data = np.array(references, h5py.ref_dtype)[:, None]
        return self.add(self.file, name, data, "cell")

    def close(self):
        self.file.close()
        with open(self.path, "r+b") as raw:
            raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\0\2IM")


@pytest.fixture
def mat(tmp_path):
    file = MatFile(tmp_path / "args.mat")
    yield file
    file.file.close()


def load(path, group=""):
    args, kwargs = load_arguments(f"{path}{group}", allow_pickle=False)
    assert args == []
    return kwargs


class TestMatlab:
    def test_arrays_have_their_axes_in_the_order_of_matlab(self, mat):
        mat.array("m", [[1.0, 2, 3], [4, 5, 6]])
        mat.add(mat.file, "deep", np.arange(24.0).reshape(4, 3, 2), "double")
        mat.close()

        found = load(mat.path)
        assert found["m"].tolist() == [[1, 2, 3], [4, 5, 6]]
        assert found["deep"].shape == (2, 3, 4)

    def test_vectors_have_one_axis_and_numbers_none(self, mat):
        mat.array("row", [1.0, 2, 3])
        mat.array("column", [[1.0], [2]])
        mat.array("one", 5.0)
        mat.array("short", np.array([[1, 2]], "i2"), "int16")
        mat.close()

        found = load(mat.path)
        assert found["row"].tolist() == [1, 2, 3]
        assert found["column"].tolist() == [1, 2]
        assert found["one"] == 5.0
        assert isinstance(found["one"], float)
        assert found["short"].dtype == np.dtype("i2")

    def test_text_logical_complex_and_empty(self, mat):
        mat.text("word", "Größe")
        mat.add(mat.file, "flags", np.array([[1], [0]], "u1"), "logical", int_decode=np.int32(1))
        pair = np.dtype([("real", "<f8"), ("imag", "<f8")])
        mat.add(mat.file, "z", np.array([[(1, 2)], [(3, 0)]], pair), "double")
        mat.add(mat.file, "none", np.array([0, 3], "u8"), "double", empty=np.uint8(1))
        mat.add(mat.file, "blank", np.array([0, 0], "u8"), "char", empty=np.uint8(1))
        mat.close()

        found = load(mat.path)
        assert found["word"] == "Größe"
        assert found["flags"].dtype == bool
        assert found["flags"].tolist() == [True, False]
        assert found["z"].tolist() == [1 + 2j, 3]
        assert found["none"].shape == (0, 3)
        assert found["blank"] == ""

    def test_rows_of_characters_are_lines(self, mat):
        rows = np.array([[ord(c) for c in line] for line in ("ab ", "cde")], "u2")
        mat.add(mat.file, "lines", rows.T, "char", int_decode=np.int32(2))
        mat.close()

        assert load(mat.path)["lines"] == ["ab", "cde"]

    def test_a_cell_of_text_is_a_list(self, mat):
        mat.cell("words", ["one", "two", "three"])
        mat.close()

        assert load(mat.path) == {"words": ["one", "two", "three"]}

    def test_numbers_in_a_cell_are_numbers(self, mat):
        mat.array("inner", 2.5)
        data = np.array([[mat.file["inner"].ref]], h5py.ref_dtype)
        mat.add(mat.file, "mixed", data, "cell")
        mat.close()

        (number,) = load(mat.path)["mixed"]
        assert (number, type(number)) == (2.5, np.float64)

    def test_an_array_of_structs_is_refused(self, mat):
        mat.cell("words", ["one", "two"])
        group = mat.file.create_group("setup")
        group.create_dataset("name", data=mat.file["words"][()], dtype=h5py.ref_dtype)
        mat.close()

        with pytest.raises(InputError, match=r"'name' in .* references .* an array of structs"):
            load(mat.path, ":/setup")

    def test_fields_of_a_struct_are_named_by_its_path(self, mat):
        group = mat.file.create_group("setup")
        group.attrs["MATLAB_class"] = np.bytes_("struct")
        mat.add(group, "gain", np.array([[2.5]]), "double")
        mat.close()

        assert load(mat.path, ":/setup") == {"gain": 2.5}
        with pytest.raises(InputError, match=r"name one: .*args\.mat:/setup"):
            load(mat.path)

    def test_what_nobody_can_read_is_said(self, mat):
        mat.add(mat.file, "s", np.zeros((1, 6), "u4"), "string", object_decode=np.int32(3))
        mat.close()

        with pytest.raises(InputError, match=r"'s' in .* class string, .* cellstr\(x\)"):
            load(mat.path)

    def test_older_files_are_told_apart(self, tmp_path):
        (tmp_path / "old.mat").write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM")

        with pytest.raises(InputError, match=r"before version 7\.3 .*-v7\.3"):
            load(tmp_path / "old.mat")


class TestNetcdf:
    def test_variables_come_as_netcdf_means_them(self, tmp_path):
        h5netcdf = pytest.importorskip("h5netcdf")
        with h5netcdf.File(tmp_path / "args.nc", "w") as file:
            file.dimensions = {"task": 3, "letters": 4}
            x = file.create_variable("x", ("task",), "f8", fillvalue=-9.0)
            x[:] = [1.5, -9, 3]
            packed = file.create_variable("packed", ("task",), "i2")
            packed[:] = [0, 10, 20]
            packed.attrs["scale_factor"], packed.attrs["add_offset"] = 0.1, 5.0
            text = file.create_variable("text", ("task", "letters"), "S1")
            text[:] = np.array([b"ab", b"Gr\xc3\xb6", b""], "S4").view("S1").reshape(3, 4)
            file.create_variable("y", (), "f8")[...] = 4.0

        found = load(tmp_path / "args.nc")
        assert sorted(found) == ["packed", "text", "x", "y"]
        assert np.array_equal(found["x"], [1.5, np.nan, 3], equal_nan=True)
        assert found["packed"].tolist() == [5.0, 6.0, 7.0]
        assert found["text"].tolist() == ["ab", "Grö", ""]
        assert found["y"] == 4.0

    def test_a_missing_integer_is_refused(self, tmp_path):
        h5netcdf = pytest.importorskip("h5netcdf")
        with h5netcdf.File(tmp_path / "args.nc", "w") as file:
            file.dimensions = {"task": 3}
            file.create_variable("n", ("task",), "i4", fillvalue=-1)[:] = [1, -1, 3]

        with pytest.raises(InputError, match=r"missing values, first at \(1,\)"):
            load(tmp_path / "args.nc")

    def test_booleans_unsigned_and_several_missing_values(self, tmp_path):
        with h5py.File(tmp_path / "args.nc", "w") as file:
            file["flag"] = np.array([1, 0], "i1")
            file["flag"].attrs["dtype"] = "bool"  # as xarray writes them
            file["byte"] = np.array([-1, 1], "i1")
            file["byte"].attrs["_Unsigned"] = "true"
            file["x"] = np.array([1, 7, 8], "f4")
            file["x"].attrs["missing_value"] = np.array([7, 8], "f4")
            file["word"] = ["a", ""]
            file["word"].attrs["_FillValue"] = ""

        found = load(tmp_path / "args.nc")
        assert found["flag"].dtype == bool
        assert found["byte"].tolist() == [255, 1]
        assert np.array_equal(found["x"], [1, np.nan, np.nan], equal_nan=True)
        assert found["word"].tolist() == ["a", ""]

    def test_netcdf_3_is_told_apart(self, tmp_path):
        (tmp_path / "old.nc").write_bytes(b"CDF\1" + bytes(100))

        with pytest.raises(InputError, match="nccopy -k nc4"):
            load(tmp_path / "old.nc")
