"""Which test files are left out on the further stacks: those that have no test for them."""

from __future__ import annotations

import pytest
from conftest import IS_WITHOUT

pytestmark = pytest.mark.once


@pytest.mark.parametrize("expression", IS_WITHOUT)
def test_no_file_with_tests_of_a_stack_is_left_out(request, expression):
    is_wanted = {
        "every": lambda item: item.get_closest_marker("every"),
        "not once": lambda item: not item.get_closest_marker("once"),
    }[expression]
    paths = {item.path for item in request.session.items if is_wanted(item)}

    assert [path for path in paths if IS_WITHOUT[expression](path.read_text())] == []
