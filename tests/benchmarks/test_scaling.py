"""What several processes send is what the formula says, at sizes that run in seconds; its tables from rows by hand."""

from __future__ import annotations

import doctest
from dataclasses import asdict

import messages
import projection
import pytest
import scaling
import torch
from messages import Traffic
from rich.console import Console

SIZE, REST = 20_000, (0.7,)
CASES = [(SIZE, "magnitude", "DDP"), *((SIZE, strategy, "FSDP2") for strategy in scaling.STRATEGIES)]


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    """Return what one and three processes measured; rows of 3 x width do not divide by 3 evenly in every target."""
    return [row for processes in (1, 3) for row in scaling.group(processes, CASES, REST)]


def printed(*tables: object) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        for table in tables:
            console.print(table)
    return capture.get()


def test_bytes_and_messages_counted_are_those_of_the_formula_to_the_byte(rows: list[dict]) -> None:
    for row in rows:
        case = projection.Case(
            row["processes"], row["connections"], row["targets"], row["here"], row["layout"] == "FSDP2"
        )
        computed = {what: asdict(traffic) for what, traffic in projection.update(case, row["strategy"]).items()}
        label = row["strategy"], row["layout"], row["processes"]
        assert row["as_computed"], label
        assert row["update"].keys() == computed.keys(), label
        for what, counted in row["update"].items():
            assert counted["messages"] == computed[what]["messages"], (label, what)
            if row["strategy"] == "magnitude":
                assert counted["payload"] == computed[what]["payload"], (label, what)
                assert counted["moved"] == pytest.approx(computed[what]["moved"]), (label, what)


def test_however_many_processes_hold_the_model_masks_are_those_of_one(rows: list[dict]) -> None:
    for strategy in scaling.STRATEGIES:
        masks = [row["masks"] for row in rows if row["strategy"] == strategy]
        assert len(masks) == (4 if strategy == "magnitude" else 2)
        assert all(found == masks[0] and len(found) == 1 for found in masks), strategy


def test_a_checkpoint_of_masks_in_parts_sends_a_bit_a_connection(rows: list[dict]) -> None:
    (row,) = [r for r in rows if (r["strategy"], r["layout"], r["processes"]) == ("magnitude", "FSDP2", 3)]
    sent = row["checkpoint"]["checkpoint: masks"]

    assert sent["messages"] == row["targets"]
    assert row["here"] / 8 <= sent["payload"] < row["here"] / 8 * 1.05
    assert all(r["checkpoint"] == {} for r in rows if r["layout"] == "DDP")


def test_the_formula_grows_by_targets_and_not_by_connections() -> None:
    small = projection.Case(ranks=4, connections=10**8, targets=10, here=25 * 10**6, in_parts=True)
    large = projection.Case(ranks=4, connections=10**11, targets=10, here=25 * 10**9, in_parts=True)
    double = projection.Case(ranks=4, connections=10**8, targets=20, here=25 * 10**6, in_parts=True)

    assert projection.update(small, "magnitude") == projection.update(large, "magnitude")
    assert projection.update(small, "magnitude")["counts of new masks"].payload == 168
    assert projection.update(double, "magnitude")["counts of new masks"].payload == 328
    assert projection.update(small, "magnitude")["digits of the cut"] == Traffic(3, 3 * 2**14, 3 * 2**14 * 1.5)
    assert projection.held(large, "taylor")["checkpoint: state of the strategy, whole"] == 4e11


def test_what_differs_from_the_formula_is_said() -> None:
    case = projection.Case(ranks=2, connections=1000, targets=3, here=500, in_parts=True)
    counted = {what: asdict(traffic) for what, traffic in projection.update(case, "magnitude").items()}
    assert scaling.as_computed(case, "magnitude", counted)

    counted["checksums"]["payload"] += 8
    assert not scaling.as_computed(case, "magnitude", counted)
    del counted["checksums"]
    assert not scaling.as_computed(case, "magnitude", counted)


def test_a_message_without_a_known_purpose_is_not_lost() -> None:
    with pytest.raises(ValueError, match="no purpose is known"):
        messages.purpose()


def test_tables_show_every_case_and_name_what_is_wrong(rows: list[dict]) -> None:
    wrong = [{**row, "masks": ["another"]} if row["processes"] == 3 else row for row in rows]
    text = printed(scaling.time_table(wrong))

    assert text.count("NO") == len(CASES)
    assert printed(scaling.time_table(rows)).count("NO") == 0
    traffic = {"sample": asdict(Traffic(2, 1500, 3000.0))}
    assert "1.5 kB" in printed(scaling.purpose_table("title", {"magnitude": traffic}))
    assert "400 GB" in printed(scaling.memory_table(scaling.FAR, ("magnitude", "taylor")))


def test_examples_hold() -> None:
    assert doctest.testmod(scaling).failed == 0
    assert doctest.testmod(scaling).attempted > 0
    assert torch.distributed.is_initialized() is False
