"""Files that would take far more memory than they are large; each is refused, or read within the promise."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Callable
from functools import partial

from tests.fuzzing import forge
from tests.fuzzing.forge import Record

HUGE = 2**29  # values: 2 GB of float32
BYTEARRAY = b"c__builtin__\nbytearray\n" + forge.whole(2**30) + b"\x85R"
GOOD = forge.checkpoint(forge.run())


def _expanded() -> bytes:
    return forge.tensor(forge.storage("Float", "0", 1), [HUGE], [0])


def _overlapping() -> bytes:
    return forge.tensor(forge.storage("Float", "0", 2**10), [2**9, 2**9], [1, 1])


def _many_views() -> bytes:
    """Return ten thousand tensors that share one megabyte, which apart would be ten gigabytes."""
    first = forge.tensor(forge.storage("Float", "0", 2**18), [2**18], [1])
    args = forge.storage("Float", "0", 2**18) + forge.whole(0) + b"(" + forge.whole(2**18) + b"t("
    args += forge.whole(1) + b"t\x89ccollections\nOrderedDict\n)R"
    return b"](" + first + (b"ctorch._utils\n_rebuild_tensor_v2\n(" + args + b"tR") * 1_000 + b"e"


def _history() -> bytes:
    """Return a curve of a million points."""
    point = b"K\1G" + struct.pack(">d", 0.5) + b"\x86"
    return b"](" + point * 1_000_000 + b"e"


def _copies() -> bytes:
    """Return a mapping of ten thousand entries, copied a thousand times by five bytes each."""
    pairs = b"](" + b"".join(forge.whole(number) + b"N\x86" for number in range(10_000)) + b"e"
    return b"](" + pairs + b"q\0" + b"ccollections\nOrderedDict\nh\0\x85R" * 2_000 + b"e"


def _deep(levels: int) -> str:
    name = "n" * 500
    return "".join(f'{{"{name}":' for _ in range(levels)) + "1" + "}" * levels


CHECKPOINT: dict[str, Callable[[], bytes]] = {
    "other_spelling": lambda: forge.checkpoint(
        forge.run(), extra=[Record("a/DATA.PKL", b"\x80\2" + BYTEARRAY + b".")]
    ),
    "other_spelling_behind": lambda: forge.archive(
        [Record("a/data.pkl", forge.run()), Record("a/Data.pkl", b"\x80\2" + BYTEARRAY + b".")]
    ),
    "other_folder": lambda: forge.checkpoint(forge.run(), extra=[Record("b/data.pkl", b"\x80\2" + BYTEARRAY + b".")]),
    "legacy_with_an_archive": lambda: forge.legacy(
        b"\x80\2"
        + b"(" + forge.text("storage") + b"ctorch\nFloatStorage\n" + forge.text("0") + forge.text("cpu")
        + forge.whole(HUGE) + b"NtQ."
    )
    + GOOD,
    "archive_in_a_comment": lambda: forge.checkpoint(forge.run(BYTEARRAY), comment=GOOD[:-22] + GOOD[-22:]),
    "expanded_slot": lambda: forge.checkpoint(forge.run(_expanded()), {"0": bytes(4)}),
    "overlapping_slot": lambda: forge.checkpoint(forge.run(_overlapping()), {"0": bytes(2**12)}),
    "views_of_one_storage": lambda: forge.checkpoint(forge.run(_many_views()), {"0": bytes(2**20)}),
    "storage_larger_than_its_record": lambda: forge.checkpoint(
        forge.run(forge.tensor(forge.storage("Float", "0", HUGE), [4], [1])), {"0": bytes(16)}
    ),
    "history_of_a_million_points": lambda: forge.checkpoint(forge.run(_history())),
    "lists_of_one_byte": lambda: forge.checkpoint(forge.run(b"](" + b"]" * 1_000_000 + b"e")),
    "mappings_of_one_byte": lambda: forge.checkpoint(forge.run(b"](" + b"}" * 1_000_000 + b"e")),
    "marks": lambda: forge.checkpoint(b"\x80\2" + b"(" * 1_000_000 + b"."),
    "memo": lambda: forge.checkpoint(
        forge.run(b"N" + b"".join(b"r" + struct.pack("<I", number) for number in range(600_000)))
    ),
    "copies_of_a_mapping": lambda: forge.checkpoint(forge.run(_copies())),
    "tensors_of_some_bytes": lambda: forge.checkpoint(
        forge.run(
            b"](" + forge.tensor(forge.storage("Float", "0", 1), [], [])
            + (b"ctorch._utils\n_rebuild_tensor_v2\nq\1" + forge.storage("Float", "0", 1) + b"q\2"
               + forge.whole(0) + b")" + b")\x89ccollections\nOrderedDict\n)Rq\3")
            + b"0" * 0 + b"(h\2K\0))\x89h\3tq\4" + b"h\1h\4R" * 300_000 + b"e"
        ),
        {"0": bytes(4)},
    ),
    "records_without_end": lambda: forge.archive([Record(f"a/data/{number}") for number in range(60_000)] * 2),
    "pickle_that_unfolds": lambda: forge.archive(
        [Record("a/data.pkl", zlib.compress(forge.run(b"](" + b"N" * 2**27 + b"e"))[2:-4], method=8, claimed=2**27)]
    ),
    "config_nested_with_long_names": lambda: forge.checkpoint(forge.run(config=_deep(900))),
    "config_of_lists": lambda: forge.checkpoint(forge.run(config="[" + "[]," * 1_500_000 + "0]")),
    "overrides_without_end": lambda: forge.checkpoint(forge.run(overrides=[f"+a{n}=[1,2]" for n in range(20_000)])),
    "key_of_many_digits": lambda: forge.checkpoint(
        forge.run(b"}(" + b"".join(forge.whole(n * (2**61 - 1)) + b"N" for n in range(2**20, 2**20 + 20_000)) + b"u")
    ),
}  # fmt: skip


def _entry(shape: list[int], **more: object) -> dict[str, object]:
    return {"dtype": "float32", "shape": shape, "parts": {"kept": "plain", "values": "plain"}, "count": 0, **more}


def _frame(unpacked: int) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor(level=3, write_checksum=False).compress(bytes(unpacked))


def _half_zero_bytes(size: int) -> bytes:
    return forge.compact(
        {"a": {**_entry([size]), "dtype": "uint8", "count": 0}}, {"kept:a": bytes(size // 8), "values:a": b""}
    )


COMPACT: dict[str, Callable[[], bytes]] = {
    "zeros_without_end": lambda: forge.compact({"a": _entry([2**34])}, {"kept:a": b"", "values:a": b""}),
    "zeros_within_the_limit": lambda: _half_zero_bytes(2**23),
    "frame_that_unfolds": lambda: forge.compact(
        {"a": _entry([2**32], parts={"kept": "zstd", "values": "plain"})}, {"kept:a": _frame(2**29), "values:a": b""}
    ),
    "frames_within_the_limit": lambda: forge.compact(
        {"a": {**_entry([2**22]), "parts": {"kept": "zstd", "values": "zstd"}, "count": 0}},
        {"kept:a": _frame(2**19), "values:a": b""},
    ),
    "list_of_lists": lambda: forge.compact("[" + "[]," * 300_000 + "0]", {}),
    "large_list_of_lists": lambda: forge.compact("[" + "[]," * 1_500_000 + "0]", {}),
    "names_without_end": lambda: forge.compact({str(number): {} for number in range(300_000)}, {}),
    "parts_without_end": lambda: forge.compact({}, {str(number): b"" for number in range(100_000)}),
    "ties_without_end": lambda: forge.compact(
        {"a": {**_entry([0]), "parts": {"whole": "plain"}, "count": None}, **{str(n): "a" for n in range(60_000)}},
        {"whole:a": b""},
    ),
    "metadata_without_end": lambda: forge.compact({}, {}, {str(number): "" for number in range(300_000)}),
}


SLIM_FORMAT = "lightning-dynprune slim"
SLIM: dict[str, Callable[[], bytes]] = {
    "attributes_of_lists": lambda: forge.safetensors(
        {"__metadata__": {"format": SLIM_FORMAT, "version": "1", "attributes": "[" + "[]," * 300_000 + "0]"}}
    ),
    "parts_without_end": COMPACT["parts_without_end"],
    "metadata_without_end": lambda: forge.safetensors({"__metadata__": {str(n): "" for n in range(300_000)}}),
}  # fmt: skip

LISTS = b"[" + b"[]," * 1_500_000 + b"0]"
MAPPINGS = b'{"a": [' + b"{}," * 1_000_000 + b"0]}"
POINTS = b'{"val_curve": [' + b"[1, 0.5]," * 1_000_000 + b"[1, 0.5]]}"
WIDE = ('{"a": "' + "x" * (2**23 - 2**20) + '\U0001f600"}').encode()
STRINGS = b'{"a": [' + b'"",' * 1_500_000 + b'""]}'
JSONS: dict[str, Callable[[], bytes]] = {
    "lists": lambda: LISTS,
    "mappings": lambda: MAPPINGS,
    "a_million_points": lambda: POINTS,
    "one_wide_character": lambda: WIDE,
    "texts": lambda: STRINGS,
    "too_large": lambda: b'{"a": "' + b"x" * 2**25 + b'"}',
    "overrides": lambda: json.dumps({"overrides": [f"+a{n}=1" for n in range(20_000)], "config_dirs": []}).encode(),
}


def _resumed(name: str) -> bytes:
    """Return a checkpoint with a hostile pruning state; its reader is imported only where it is used."""
    from tests.fuzzing.read_resumed import HOSTILE

    return HOSTILE[name]()


RESUMED = (
    "many_small_deltas",
    "many_updates_without_positions",
    "many_small_deltas_of_version_2",
    "one_update_in_many_places",
    "lists_in_ten_places",
    "list_in_itself",
)

ATTACKS: dict[str, dict[str, Callable[[], bytes]]] = {
    "checkpoint": CHECKPOINT,
    "resumed": {name: partial(_resumed, name) for name in RESUMED},
    "compact": COMPACT,
    "slim": SLIM,
    "weights": {**SLIM, **COMPACT},
    "choice": JSONS,
    "results": {
        f"{kind}_{name}": (lambda make=make, first=first: first + make())
        for kind, first in (("results", b"0"), ("dense", b"2"))
        for name, make in JSONS.items()
    },
    "sweep": JSONS,
    "adaptive": {name: (lambda make=make: b"\1" + make()) for name, make in JSONS.items()},
    "idx": {"bomb": lambda: b"\1" + gzip.compress(bytes(2**28), mtime=0)},
}
