"""Files drawn from their format keep the promise: read, or refused in words, in bounded memory and time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzzing.bounds import bounded
from tests.fuzzing.formats import FORMATS
from tests.fuzzing.harness import reader
from tests.fuzzing.settings import examples


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.filterwarnings("ignore")
def test_files_of_a_format_keep_the_promise(name, tmp_path):
    module = reader(name)

    @examples(40)
    @given(st.data())
    def read(data: st.DataObject) -> None:
        drawn = data.draw(FORMATS[name])
        with bounded():
            module.read(drawn, tmp_path)

    read()
