"""Files as hypothesis draws them from their format: archives, pickles, safetensors headers, compact lists and names."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from tests.fuzzing import forge
from tests.fuzzing.attacks import BYTEARRAY, GOOD
from tests.fuzzing.forge import Record

SIZES = (0, 1, 2, 3, 4, 9, 2**10, 2**20, 2**29, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, 2**63, 2**64, 2**70)
sizes = st.sampled_from(SIZES)
few = st.integers(0, 9)

names = st.one_of(
    st.sampled_from(
        [
            "a/data.pkl", "a/DATA.PKL", "a/data.PKL", "A/data.pkl", "b/data.pkl", "data.pkl", "a/data/0", "a/DATA/0",
            "a/data/00", "a/data/-1", "a/version", "a/byteorder", "a/.format_version", "a/.data/serialization_id",
            "a/constants.pkl", "a//data.pkl", "a/./data.pkl", "../a/data.pkl", "a/data.pkl\0x", "a\\data.pkl", "",
        ]
    ),
    st.text(max_size=12),
)  # fmt: skip

# Instructions of a pickle: those of a checkpoint with hostile arguments, and those that no checkpoint has.
kinds = st.sampled_from(["Float", "Long", "Byte", "ComplexDouble", "Bool", "Quantized", "Untyped"])
storages = st.builds(forge.storage, kinds, st.sampled_from(["0", "1", "x"]), few | sizes)
shapes = st.lists(few | sizes, max_size=3)
tensors = st.builds(forge.tensor, storages, shapes, shapes, few | sizes)
atoms = st.one_of(
    st.sampled_from(
        [b"N", b"\x88", b"]", b"}", b")", b"\x8f", b"K\1", b"G" + bytes(8), BYTEARRAY, b"h\0", b"q\0", b"2"]
    ),
    st.builds(forge.whole, few | sizes),
    st.builds(forge.text, st.text(max_size=6)),
    tensors,
    storages,
)
glue = st.sampled_from(
    [b"(", b"t", b"e", b"a", b"u", b"s", b"R", b"b", b"0", b"\x85", b"\x86", b"\x81", b"Q", b"l", b"d"]
)
stretches = st.builds(lambda piece, count: piece * count, atoms | glue, st.sampled_from([1, 1, 1, 2, 50, 3_000]))
programs = st.lists(stretches, max_size=12).map(b"".join)
pickles = st.one_of(
    st.builds(lambda inner: forge.run(b"](" + inner + b"e"), programs),
    st.builds(lambda state: forge.run(state=b"}(" + forge.text("network.weight") + state + b"u"), tensors),
    st.builds(
        lambda overrides, config: forge.run(overrides=overrides, config=config),
        st.lists(st.sampled_from(["seed=1", "+a=" + "[" * 400, "\x1b]0;x\x07", "+x={_target_:os.mkdir}", "a=${b:c}"])),
        st.sampled_from(["{}", "[", "[" * 2_000, '{"a":' * 900 + "1" + "}" * 900, "NaN", '{"\\ud83d": "\x1b"}']),
    ),
    programs.map(lambda inner: b"\x80\2" + inner + b"."),
)

records = st.builds(
    Record,
    names,
    pickles | st.binary(max_size=40),
    local_name=st.none() | names,
    method=st.sampled_from([0, 0, 0, 8, 12, 99]),
    claimed=st.none() | sizes,
    crc=st.none() | st.just(0),
    offset=st.none() | sizes,
)
ends = st.fixed_dictionaries(
    {},
    optional={
        "before": st.sampled_from([b"", b"x", GOOD[:40], forge.legacy(b"\x80\2" + BYTEARRAY + b".")]),
        "comment": st.sampled_from([b"x", GOOD, b"PK\5\6" + bytes(18)]),
        "after": st.sampled_from([b"x", GOOD, b"PK\5\6" + bytes(18)]),
        "shift": st.sampled_from([-1, 1, 46, 2**31]),
        "count": few | st.just(2**16 - 1),
    },
)
archives = st.one_of(
    st.builds(lambda found, end: forge.archive(found, **end), st.lists(records, max_size=4), ends),
    st.builds(
        lambda pickled, data, extra, end: forge.checkpoint(pickled, {"0": data}, extra, **end),
        pickles,
        st.binary(max_size=40),
        st.lists(records, max_size=1),
        ends,
    ),
    st.builds(lambda pickled, before: forge.legacy(pickled) + before, pickles, st.sampled_from([b"", GOOD])),
)

values = st.one_of(
    st.none(), st.booleans(), few, sizes, st.floats(), st.text(max_size=4), st.just({}),
    st.lists(few | sizes, max_size=3),
    st.sampled_from(["float32", "bool", "complex64", "uint8", "float8_e4m3fn", "plain", "zstd", "U8", "F32"]),
)  # fmt: skip
parts = st.sampled_from(
    [{"whole": "plain"}, {"kept": "plain", "values": "plain"}, {"kept": "zstd", "values": "zstd", "signs": "zstd"},
     {"kept": "plain", "values": "plain", "signs": "plain"}, {"values": "plain", "kept": "plain"}, {}]
)  # fmt: skip
entries = st.one_of(
    st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["float32", "bool", "complex64", "uint8"]) | values,
            "shape": shapes | values,
            "parts": parts | values,
            "count": st.none() | few | values,
        },
        optional={"crc32": values, "more": values},
    ),
    values,
)
tensor_names = st.sampled_from(["a", "b", "weight", "0.weight", "__metadata__", "\x1b]0;x\x07", "a\0b", ""])
compacts = st.builds(
    forge.compact,
    st.dictionaries(tensor_names, entries, max_size=3),
    st.dictionaries(
        st.builds("{}:{}".format, st.sampled_from(["whole", "kept", "values", "signs"]), tensor_names),
        st.binary(max_size=20),
        max_size=4,
    ),
    st.dictionaries(st.sampled_from(["version", "crc32", "format"]), st.text(max_size=3), max_size=1),
)
headers = st.dictionaries(
    tensor_names,
    st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "U8", "BOOL", "F64"]),
            "shape": shapes,
            "data_offsets": st.lists(few | sizes, max_size=2),
        }
    )
    | values,
    max_size=3,
)  # fmt: skip
safetensors = st.one_of(
    st.builds(forge.safetensors, headers, st.binary(max_size=40), st.none() | sizes.filter(lambda n: n < 2**64)),
    st.builds(
        lambda kind, attributes, found: forge.safetensors(
            {"__metadata__": {"format": kind, "version": "1", "attributes": attributes}, **found}
        ),
        st.sampled_from(["lightning-dynprune slim", "lightning_dynprune.compact", "pt"]),
        st.sampled_from(["{}", '{"a.num_heads": 1e9}', "[" * 500, '{"c.1.num_features": 0}', "null"]),
        headers,
    ),
    compacts,
)


def _jsons(*keys: str) -> st.SearchStrategy[bytes]:
    inner: Any = st.recursive(
        values, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.sampled_from(keys), v), max_leaves=6
    )
    return st.dictionaries(st.sampled_from(keys), inner, max_size=len(keys)).map(
        lambda found: json.dumps(found).encode()
    )


FORMATS: dict[str, st.SearchStrategy[bytes]] = {
    "checkpoint": archives,
    "compact": compacts,
    "slim": safetensors,
    "weights": safetensors,
    "choice": _jsons("format", "version", "layers", "0", "kernel", "settings", "shape"),
    "results": st.builds(
        bytes.__add__,
        st.sampled_from([b"0", b"1", b"2"]),
        _jsons("overrides", "accuracy", "sparsity", "seed", "key", "val_curve", "error", "parameters"),
    ),
    "sweep": _jsons("overrides", "config_dirs", "jobs", "version"),
    "adaptive": _jsons("method", "after", "kinds", "cut_shares", "macs").map(lambda found: b"\1" + found),
}
