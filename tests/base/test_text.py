import pytest

from lightning_dynprune.base import name_some


@pytest.mark.parametrize(
    ("names", "most", "expected"),
    [
        ([], 4, "none"),
        (["a"], 4, "a"),
        (["a", "b", "c", "d"], 4, "a, b, c, d"),
        (["a", "b", "c", "d", "e"], 4, "a, b, c, d and 1 more"),
        (("a", "b", "c"), 1, "a and 2 more"),
    ],
)
def test_names_past_the_limit_are_counted(names, most, expected):
    assert name_some(names, most) == expected


def test_four_names_are_written_out_by_default():
    assert name_some([str(number) for number in range(7)]) == "0, 1, 2, 3 and 3 more"
