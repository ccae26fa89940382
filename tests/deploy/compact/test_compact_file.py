"""A compact file gives back the state dict to the bit, or is refused."""

from __future__ import annotations

import json
import struct
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lightning_dynprune.deploy.compact import load_compact, save_compact, write_dense
from lightning_dynprune.deploy.compact.contents import DTYPES

CODECS = pytest.mark.parametrize("zstd", [False, True], ids=["plain", "zstd"])


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(
        a[name].dtype == b[name].dtype and a[name].shape == b[name].shape and bits(a[name]) == bits(b[name])
        for name in a
    )


def pruned(size: int, sparsity: float, by_magnitude: bool = True, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(size, generator=generator) * 0.05
    scores = weight.abs() if by_magnitude else torch.rand(size, generator=generator)
    return torch.where(scores > scores.kthvalue(int(size * sparsity)).values, weight, 0.0)


def listed(path: Path) -> dict[str, dict]:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["tensors"])


def rewritten(path: Path, change) -> Path:
    """Write a compact file anew after ``change(tensors, listed)``, with its checksums made right again."""
    tensors, described = load_file(path), listed(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = {key: tensor.clone() for key, tensor in tensors.items()}
    change(tensors, described)
    for name, entry in described.items():
        if isinstance(entry, dict) and isinstance(entry.get("parts"), dict):
            total = 0
            for part in entry["parts"]:
                data = tensors.get(f"{part}:{name}", torch.zeros(0, dtype=torch.uint8))
                total = zlib.crc32(data.contiguous().view(torch.uint8).numpy(), total)
            entry["crc32"] = total
    metadata["tensors"] = json.dumps(described)
    metadata["crc32"] = str(zlib.crc32(metadata["tensors"].encode()))
    save_file(tensors, path, metadata)
    return path


@pytest.fixture
def file(tmp_path):
    """A compact file of two tensors, "a" packed (2000 entries, 2 kept) and "b" whole."""
    path = tmp_path / "compact.safetensors"
    big = torch.zeros(2000)
    big[[3, 1999]] = torch.tensor([1.5, -2.5])
    save_compact({"a": big, "b": torch.tensor([1.0, 2.0, 3.0])}, path)
    return path


@st.composite
def state_dicts(draw) -> dict[str, Tensor]:
    """State dicts of every dtype, with shapes of 0 to 3 axes, any bits, and zeros among them."""
    weights = {}
    for name in draw(st.lists(st.text(max_size=8), max_size=4, unique=True)):
        dtype = draw(st.sampled_from(list(DTYPES.values())))
        shape = draw(st.lists(st.integers(0, 20), max_size=3))
        seed, density = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from([0.0, 0.05, 0.5, 1.0]))
        random = np.random.default_rng(seed)
        numel = int(np.prod(shape, dtype=int))
        raw = random.integers(0, 256, (numel, dtype.itemsize), np.uint8) * (random.random((numel, 1)) < density)
        raw = raw.astype(np.uint8) & (1 if dtype == torch.bool else 255)
        weights[name] = torch.from_numpy(raw.reshape(-1)).view(dtype).reshape(shape)
    return weights


@CODECS
@settings(max_examples=80, deadline=None)
@given(weights=state_dicts())
def test_every_dtype_and_shape_comes_back_to_the_bit(tmp_path_factory, zstd, weights):
    path = tmp_path_factory.mktemp("compact") / "c.safetensors"
    assert save_compact(weights, path, zstd=zstd) == path.stat().st_size
    assert equal(load_compact(path), weights)


@CODECS
def test_nan_payloads_are_kept_and_zeros_of_either_sign_are_dropped(tmp_path, zstd):
    path = tmp_path / "c.safetensors"
    weight = torch.zeros(1000)
    weight[5] = -0.0
    weight.view(torch.int32)[7] = 0x7FC00123
    weight.view(torch.int32)[8] = -0x3FFEDD  # a negative NaN with a payload
    weight[9] = float("inf")
    save_compact({"w": weight}, path, zstd=zstd)
    assert zstd or listed(path)["w"]["count"] == 3
    assert equal(load_compact(path), {"w": weight})


@CODECS
@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.complex64,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
    ],
    ids=str,
)
def test_a_sign_of_a_zero_costs_a_bit_and_only_where_one_occurs(tmp_path, zstd, dtype):
    kept = torch.arange(100_000) % 50 == 0
    # As torch.nn.utils.prune leaves them: a negative weight times zero is -0.0.
    real, imag = torch.randn(2, 100_000, generator=torch.Generator().manual_seed(0)) * kept
    signed = torch.complex(real, imag) if dtype.is_complex else real.to(dtype)
    plain = signed.where(kept, torch.zeros((), dtype=dtype))
    sizes = {name: save_compact({"w": w}, tmp_path / name, zstd=zstd) for name, w in {"s": signed, "p": plain}.items()}
    assert equal(load_compact(tmp_path / "s"), {"w": signed})
    bits = 12_500 * (2 if dtype.is_complex else 1)
    assert sizes["s"] <= sizes["p"] + bits + 200
    assert "signs" not in listed(tmp_path / "p")["w"]["parts"]


def test_a_file_without_signs_is_one_of_version_1(tmp_path):
    for version, zero in (("1", 0.0), ("2", -0.0)):
        save_compact({"w": torch.full((1000,), zero)}, tmp_path / "c")
        with safe_open(tmp_path / "c", framework="pt") as file:
            assert file.metadata()["version"] == version


def test_a_sign_that_belongs_to_no_zero_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    save_compact({"a": torch.full((1000,), -0.0).index_fill(0, torch.tensor([3]), 2.0)}, path)
    with pytest.raises(ValueError, match="tensor 'a': a sign of a zero belongs to no zero"):
        load_compact(rewritten(path, replace("signs:a", flipped(0, 8))))


def test_a_negative_zero_that_an_earlier_release_stored_as_a_value_is_read(tmp_path):
    path, weight = tmp_path / "c.safetensors", torch.zeros(1000).index_fill(0, torch.tensor([3, 9]), 1.0)
    save_compact({"a": weight}, path)
    value = torch.tensor([1.0, -0.0]).view(torch.uint8)
    loaded = load_compact(rewritten(path, replace("values:a", value)))
    assert equal(loaded, {"a": weight.index_fill(0, torch.tensor([9]), -0.0)})


def test_without_a_limit_given_a_file_may_unfold_into_one_gibibyte(tmp_path):
    path = tmp_path / "c.safetensors"
    save_compact({"a": torch.zeros(8)}, path)

    def enlarge(tensors, described):
        described["a"] |= {"shape": [2**28 + 1], "parts": {"kept": "plain", "values": "plain"}, "count": 0}
        tensors.pop("whole:a")
        tensors |= {"kept:a": zeroed(2**25 + 1), "values:a": zeroed(0)}

    with pytest.raises(ValueError, match=r"exceeds limit=1073741824 bytes of all tensors; if you trust the file, give"):
        load_compact(rewritten(path, enlarge))


def test_metadata_that_take_more_than_their_tensors_explain_are_refused(tmp_path):
    save_file({}, tmp_path / "c", {"format": "lightning_dynprune.compact", "more": "x" * 2**21})
    with pytest.raises(ValueError, match="its header takes more than"):
        load_compact(tmp_path / "c")


@CODECS
def test_a_model_is_written_as_its_state_dict_and_loads_into_the_plain_model(tmp_path, zstd):
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5))
    with torch.no_grad():
        model[0].weight.mul_(torch.rand_like(model[0].weight) < 0.1)
    save_compact(model, tmp_path / "c.safetensors", zstd=zstd)
    loaded = load_compact(tmp_path / "c.safetensors")
    assert equal(loaded, model.state_dict())
    nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5)).load_state_dict(loaded)


def test_tied_tensors_are_stored_once_and_come_back_as_one(tmp_path):
    embedding, head = nn.Embedding(100, 50), nn.Linear(50, 100, bias=False)
    head.weight = embedding.weight
    model = nn.ModuleDict({"embedding": embedding, "head": head})
    size = save_compact(model, tmp_path / "c.safetensors")
    assert 20_000 < size < 21_000
    loaded = load_compact(tmp_path / "c.safetensors")
    assert loaded["embedding.weight"] is loaded["head.weight"]
    assert equal(loaded, model.state_dict())


def test_tensors_that_share_part_of_their_memory_are_written_apart(tmp_path):
    base = torch.arange(12.0)
    weights = {"first": base[:6], "all": base, "turned": base.view(3, 4).T, "flat": base.view(3, 4), "none": base[:0]}
    weights["nothing"] = base[:0]
    save_compact(weights, tmp_path / "c.safetensors")
    assert equal(load_compact(tmp_path / "c.safetensors"), weights)


def test_a_channels_last_weight_comes_back_in_row_major_order(tmp_path):
    weight = torch.randn(4, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    save_compact({"w": weight}, tmp_path / "c.safetensors")
    loaded = load_compact(tmp_path / "c.safetensors")["w"]
    assert loaded.is_contiguous()
    assert torch.equal(loaded, weight)


def test_a_conjugated_tensor_is_written_as_what_it_is(tmp_path):
    value = torch.tensor([1 + 2j, 0, -3j])
    save_compact({"a": value, "b": value.conj()}, tmp_path / "c.safetensors")
    assert torch.equal(load_compact(tmp_path / "c.safetensors")["b"], torch.tensor([1 - 2j, 0, 3j]))


def test_loaded_tensors_are_their_own_memory(file):
    loaded = load_compact(file)
    loaded["b"].fill_(7.0)
    loaded["a"].fill_(7.0)
    file.write_bytes(b"\0" * file.stat().st_size)
    assert torch.equal(loaded["b"], torch.full((3,), 7.0))


def test_names_that_look_like_parts_of_others_do_not_mix(tmp_path):
    sparse = torch.zeros(500)
    weights = {"a": sparse, "kept:a": sparse + 1, "values:a": sparse + 2, "whole:a": sparse.clone(), "": sparse + 3}
    weights["__metadata__"] = sparse + 4
    save_compact(weights, tmp_path / "c.safetensors")
    assert equal(load_compact(tmp_path / "c.safetensors"), weights)


def test_no_tensors_make_a_file_of_no_tensors(tmp_path):
    save_compact({}, tmp_path / "c.safetensors")
    assert load_compact(tmp_path / "c.safetensors") == {}


@pytest.mark.parametrize("by_magnitude", [True, False], ids=["smallest", "random"])
@pytest.mark.parametrize(("zstd", "share"), [(False, 0.16), (True, 0.12)], ids=["plain", "zstd"])
def test_at_90_percent_a_file_is_small_enough(tmp_path, zstd, share, by_magnitude):
    weights = {f"layer{i}.weight": pruned(100_000, 0.9, by_magnitude, seed=i).view(250, 400) for i in range(3)}
    dense = write_dense(weights, tmp_path / "dense.safetensors")
    assert save_compact(weights, tmp_path / "compact.safetensors", zstd=zstd) <= share * dense
    assert equal(load_compact(tmp_path / "compact.safetensors"), weights)


@settings(max_examples=60, deadline=None)
@given(size=st.integers(0, 3000), sparsity=st.sampled_from([0.0, 0.02, 0.03, 0.04, 0.1, 0.5]), dtype=st.booleans())
def test_packing_never_makes_a_file_larger(tmp_path_factory, size, sparsity, dtype):
    weight = torch.ones(size).masked_fill_(torch.rand(size, generator=torch.Generator().manual_seed(0)) < sparsity, 0)
    weight = weight.to(torch.float16) if dtype else weight
    path = tmp_path_factory.mktemp("compact") / "c.safetensors"
    packed = save_compact({"w": weight}, path)
    whole = save_compact({"w": torch.ones_like(weight)}, path)
    assert packed <= whole + len('"count":1000,')


def test_a_tensor_is_packed_from_where_it_pays(tmp_path):
    dense = torch.ones(1000)
    few, many = dense.clone(), dense.clone()
    few[:10], many[:500] = 0, 0
    save_compact({"dense": dense, "few": few, "many": many}, tmp_path / "c.safetensors")
    parts = {name: list(entry["parts"]) for name, entry in listed(tmp_path / "c.safetensors").items()}
    assert parts == {"dense": ["whole"], "few": ["whole"], "many": ["kept", "values"]}


def change(key: str, new):
    def apply(tensors, described):
        described["a"][key] = new

    return apply


def replace(part: str, new):
    def apply(tensors, described):
        tensors[part] = new(tensors[part]) if callable(new) else new

    return apply


def zeroed(count: int):
    return torch.zeros(count, dtype=torch.uint8)


def flipped(position: int, bit: int):
    def flip(data: Tensor) -> Tensor:
        data = data.clone()
        data[position] ^= bit
        return data

    return flip


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            change("count", 3),
            r"tensor 'a': its part 'values' has 8 bytes; expected 12 for shape \[2000\] float32, 3 kept",
        ),
        (change("count", -1), r"tensor 'a': -1 kept entries do not fit the shape \[2000\]"),
        (change("count", 2001), r"tensor 'a': 2001 kept entries do not fit"),
        (change("count", 2.0), r"tensor 'a': 2.0 kept entries do not fit"),
        (change("count", True), r"tensor 'a': True kept entries do not fit"),
        (change("shape", [1999]), r"mask of a: bits are set past its 1999 connections"),
        (change("shape", [2008]), r"tensor 'a': its part 'kept' has 250 bytes; expected 251"),
        (change("shape", [2**62]), r"tensor 'a': its part 'kept' has 250 bytes; expected 576460752303423488"),
        (change("shape", [-2000]), r"tensor 'a': \[-2000\] is not a shape"),
        (change("shape", 2000), r"tensor 'a': 2000 is not a shape"),
        (change("shape", ["2000"]), r"tensor 'a': \['2000'\] is not a shape"),
        (change("dtype", "float31"), r"tensor 'a': dtype 'float31' is unknown; known: float64"),
        (change("dtype", ["float32"]), r"tensor 'a': .*unhashable"),
        (change("dtype", "float64"), r"tensor 'a': its part 'values' has 8 bytes; expected 16"),
        (change("parts", {"whole": "plain"}), r"tensor 'a': parts .* are not kept and values"),
        (
            change("parts", {"kept": "plain", "values": "lz4"}),
            r"tensor 'a': codec 'lz4' is unknown; known: plain, zstd",
        ),
        (
            change("parts", {"kept": "plain", "values": "zstd"}),
            r"tensor 'a': its part 'values' has 8 bytes; expected few",
        ),
        (
            change("parts", {"kept": "zstd", "values": "plain"}),
            r"tensor 'a': its part 'kept' has 250 bytes; expected few",
        ),
        (change("parts", None), r"tensor 'a': parts None are not kept and values or kept and values and signs"),
        (change("more", 1), r"tensor 'a': .*unexpected keyword argument 'more'"),
        (replace("kept:a", zeroed(249)), r"tensor 'a': its part 'kept' has 249 bytes; expected 250"),
        (replace("kept:a", flipped(0, 1)), r"tensor 'a': 3 entries are kept by its bits, 2 by its count"),
        (replace("values:a", zeroed(7)), r"tensor 'a': its part 'values' has 7 bytes; expected 8"),
        (replace("values:a", torch.ones(2)), r"'values:a' is not a flat sequence of bytes"),
        (replace("values:a", zeroed(8).view(2, 4)), r"'values:a' is not a flat sequence of bytes"),
        (
            replace("whole:b", zeroed(16)),
            r"tensor 'b': its part 'whole' has 16 bytes; expected 12 for shape \[3\] float32",
        ),
        (lambda tensors, _: tensors.pop("kept:a"), r"tensor 'a': its part 'kept' is missing"),
        (lambda tensors, _: tensors.pop("whole:b"), r"tensor 'b': its part 'whole' is missing"),
        (lambda tensors, _: tensors.update({"whole:c": zeroed(3)}), r"'whole:c' belongs to no tensor of the file"),
        (
            lambda _, described: described.update(c="d"),
            r"tensor 'c' is tied to 'd', which is not a tensor listed before it",
        ),
        (
            lambda _, described: described.update(c="c"),
            r"tensor 'c' is tied to 'c', which is not a tensor listed before it",
        ),
        (lambda _, described: described.update(a=[1]), r"tensor 'a': "),
        (lambda _, described: described.update(a={}), r"tensor 'a': .*missing 4 required"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused_by_the_name_of_the_tensor(file, damage, message):
    with pytest.raises(ValueError, match=message):
        load_compact(rewritten(file, damage))


def test_parts_of_two_tensors_exchanged_are_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    save_compact({"a": pruned(999, 0.9), "b": pruned(999, 0.9, seed=1)}, path)
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors["values:a"], tensors["values:b"] = tensors["values:b"].clone(), tensors["values:a"].clone()
    save_file(tensors, path, metadata)
    with pytest.raises(ValueError, match="tensor 'a' does not match its checksum"):
        load_compact(path)


@pytest.mark.parametrize(
    ("key", "new", "message"),
    [
        ("format", "pt", "format 'pt' is not 'lightning_dynprune.compact'"),
        ("version", "3", "version '3' is unknown; this release reads versions 1 and 2"),
        ("crc32", "1", "the list of tensors does not match its checksum"),
        ("tensors", "{}", "the list of tensors does not match its checksum"),
    ],
)
def test_another_format_or_version_is_refused(file, key, new, message):
    tensors = load_file(file)
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    save_file(tensors, file, metadata | {key: new})
    with pytest.raises(ValueError, match=message):
        load_compact(file)


@pytest.mark.parametrize("text", ["[1]", "3", "{", "[" * 100_000])
def test_a_list_of_tensors_that_is_none_is_refused(tmp_path, text):
    metadata = {"format": "lightning_dynprune.compact", "version": "1", "tensors": text}
    save_file({}, tmp_path / "c.safetensors", metadata | {"crc32": str(zlib.crc32(text.encode()))})
    with pytest.raises(ValueError, match="the list of tensors is no"):
        load_compact(tmp_path / "c.safetensors")


def test_a_plain_safetensors_file_is_refused(tmp_path):
    write_dense({"w": torch.ones(3)}, tmp_path / "dense.safetensors")
    with pytest.raises(ValueError, match="format 'pt' is not"):
        load_compact(tmp_path / "dense.safetensors")


def test_a_truncated_file_is_refused_by_the_name_of_the_tensor_that_is_cut(file):
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"not a complete safetensors file; it ends before tensor 'b' does"):
        load_compact(file)
    header = struct.unpack("<Q", whole[:8])[0]
    file.write_bytes(whole[: 8 + header + 3])
    with pytest.raises(ValueError, match=r"it ends before tensor 'a' does"):
        load_compact(file)


def test_a_bool_that_is_neither_true_nor_false_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    save_compact({"a": torch.tensor([True, False, True])}, path)
    with pytest.raises(ValueError, match="tensor 'a': a bool is neither 0 nor 1"):
        load_compact(rewritten(path, replace("whole:a", flipped(1, 2))))


def test_a_limit_refuses_what_would_take_more_memory_before_it_is_taken(file):
    assert equal(load_compact(file, limit=8012), load_compact(file))
    with pytest.raises(ValueError, match=r"tensor 'b': \[3\] float32 exceeds limit=8011 bytes"):
        load_compact(file, limit=8011)
    with pytest.raises(ValueError, match=r"tensor 'a': \[2000\] float32 exceeds limit=5 bytes"):
        load_compact(file, limit=5)


def test_a_decompression_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    import zstandard

    path = tmp_path / "c.safetensors"
    save_compact({"a": torch.zeros(2, 10_000, dtype=torch.int16)}, path, zstd=True)
    assert listed(path)["a"]["parts"] == {"whole": "zstd"}
    bomb = torch.frombuffer(bytearray(zstandard.ZstdCompressor().compress(bytes(2**26))), dtype=torch.uint8)
    rewritten(path, replace("whole:a", bomb))
    monkeypatch.setattr(
        zstandard, "ZstdDecompressor", lambda: SimpleNamespace(decompress=lambda *_, **__: pytest.fail("was unpacked"))
    )
    with pytest.raises(ValueError, match=r"tensor 'a': a zstd frame announces 67108864 bytes; expected 40000"):
        load_compact(path)


@pytest.mark.parametrize("tail", [b"more", b"\x28\xb5\x2f\xfd\x20\x00\x01\x00\x00"], ids=["bytes", "a second frame"])
def test_a_zstd_frame_with_something_behind_it_is_refused(tmp_path, tail):
    path = tmp_path / "c.safetensors"
    save_compact({"a": torch.zeros(2, 10_000, dtype=torch.int16)}, path, zstd=True)
    more = torch.frombuffer(bytearray(tail), dtype=torch.uint8)
    rewritten(path, replace("whole:a", lambda data: torch.cat([data, more])))
    with pytest.raises(ValueError, match="tensor 'a': not a zstd frame of 40000 bytes"):
        load_compact(path)


def test_a_cut_zstd_frame_is_refused_even_where_its_checksum_is_made_right(tmp_path):
    path = tmp_path / "c.safetensors"
    save_compact({"a": pruned(40_000, 0.9)}, path, zstd=True)
    assert listed(path)["a"]["parts"] == {"kept": "zstd", "values": "zstd"}
    with pytest.raises(ValueError, match="tensor 'a': not a zstd frame of 5000 bytes"):
        load_compact(rewritten(path, replace("kept:a", lambda frame: frame[:-3])))


def small_file(folder: Path, zstd: bool) -> tuple[Path, dict[str, Tensor]]:
    path = folder / "c.safetensors"
    weights = {
        "a": pruned(700, 0.9),
        "b": torch.arange(9, dtype=torch.int16),
        "t": torch.ones(3),
        "e": torch.ones(0, 2),
    }
    weights |= {"tied": weights["a"]}
    save_compact(weights, path, zstd=zstd)
    return path, weights


@CODECS
@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_a_flipped_byte_is_refused_or_changes_nothing(tmp_path_factory, zstd, data):
    path, weights = small_file(tmp_path_factory.mktemp("compact"), zstd)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(raw)
    try:
        loaded = load_compact(path)
    except ValueError:
        return
    assert equal(loaded, weights)


@CODECS
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_file_cut_or_lengthened_anywhere_is_refused(tmp_path_factory, zstd, data):
    path, _ = small_file(tmp_path_factory.mktemp("compact"), zstd)
    raw = path.read_bytes()
    length = data.draw(st.integers(0, len(raw) + 20).filter(lambda n: n != len(raw)))
    path.write_bytes(raw[:length] + bytes(max(0, length - len(raw))))
    with pytest.raises(ValueError, match="safetensors file"):
        load_compact(path)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"extra": {"step": 3}}, "extra: a dict cannot be written"),
        ({"w": torch.ones(2, 2).to_sparse()}, "w: a tensor of torch.sparse_coo on cpu cannot be written"),
        ({"w": torch.ones(2, device="meta")}, "w: a tensor of torch.strided on meta cannot be written"),
        (
            {"w": torch.ones(2, dtype=torch.complex128)},
            "w: dtype torch.complex128 cannot be written; accepted: float64",
        ),
    ],
)
def test_what_cannot_be_written_is_refused_by_name_and_leaves_the_old_file(file, weights, message):
    before = file.read_bytes()
    with pytest.raises(TypeError, match=message):
        save_compact(weights, file)
    assert file.read_bytes() == before


def test_without_the_package_zstd_says_what_to_install(tmp_path, file, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ImportError, match=r"pip install 'lightning-dynprune\[compact\]'"):
        save_compact({"w": torch.zeros(100)}, tmp_path / "c.safetensors", zstd=True)
    assert set(load_compact(file)) == {"a", "b"}


def test_the_dense_file_holds_tied_tensors_under_each_name(tmp_path):
    weight = torch.randn(3, 4)
    size = write_dense({"a": weight, "b": weight, "c": weight[:1]}, tmp_path / "dense.safetensors")
    assert size == (tmp_path / "dense.safetensors").stat().st_size
    assert equal(load_file(tmp_path / "dense.safetensors"), {"a": weight, "b": weight, "c": weight[:1]})
