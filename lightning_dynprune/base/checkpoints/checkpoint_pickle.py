"""The check of the pickle in a checkpoint: it is followed without making what it describes, and nothing is run."""

from __future__ import annotations

import pickletools
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, NoReturn

from lightning_dynprune.base.checkpoints.compat import ITEM_SIZES, ORDERED_DICT, REBUILD_PARAMETER, REBUILD_TENSOR

# Bytes of memory that torch's reader takes at most for what one instruction makes.
_STEP, _MARK, _LIST, _MAPPING, _PAIR, _NUMBER = 16, 128, 128, 320, 128, 32
_TUPLE, _MEMO, _ORDERED, _TENSOR, _STORAGE = 64, 128, 800, 1280, 1024
_SHORT = 256  # characters of a text that costs nothing in a second place, as names do
_TENSORS_ALLOWANCE = 2**26
_PLAIN = {"NONE": None, "NEWFALSE": False, "NEWTRUE": True}
_NUMBERS = ("BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1")


@dataclass(frozen=True, slots=True)
class _Name:
    """A name that the pickle calls something by."""

    text: str


@dataclass(frozen=True, slots=True)
class _Storage:
    """The values of a tensor.

    Args:
        numel: their number.
        item_size: bytes of one.
    """

    numel: int
    item_size: int


@dataclass(slots=True)
class _Held:
    """A list, mapping or tensor, of which only the kind, the first two keys and the size are kept.

    Args:
        kind: "list", "mapping", "ordered" or "tensor".
        cost: bytes of memory that it takes, with all that it holds.
        keys: the first two.
        is_shared: whether it stands in a second place.
    """

    kind: str
    cost: int
    keys: tuple[Any, ...] = ()
    is_shared: bool = False


class _Fixed(tuple[Any, ...]):
    """A tuple with the bytes of memory that it takes, with all that it holds."""

    cost: int = 0


def validate_pickle(data: bytes, storages: Mapping[str, int], size: int, most: int) -> None:
    """Raise unless a pickle makes plain values and tensors that are no larger than what is stored of them.

    Every instruction of the pickle is followed on stand-ins. Only the instructions and names that ``torch.save`` writes
    for tensors, numbers, texts, lists, tuples and mappings are accepted.

    Args:
        data: the pickle.
        storages: bytes of each storage of the archive, by its name in the pickle.
        size: bytes of the file.
        most: bytes of memory that the values other than storages may take.

    Raises:
        ValueError: the pickle is damaged, names something else, has a tensor with more entries than its storage or of
            another size than the archive holds, or takes more memory than that.
    """
    machine = _Machine(storages, 2 * size + _TENSORS_ALLOWANCE, most)
    try:
        for code, argument, _ in pickletools.genops(data):
            machine.follow(code.name, argument)
    except (IndexError, KeyError, UnicodeDecodeError):
        raise ValueError("its pickle is damaged") from None


class _Machine:
    """The stack machine of pickles, on stand-ins."""

    def __init__(self, storages: Mapping[str, int], most_tensors: int, most: int) -> None:
        self._storages = storages
        self._left = most
        self._tensors_left = most_tensors
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def follow(self, code: str, argument: Any) -> None:
        """Do one instruction."""
        self._take(_STEP)
        if code in _PLAIN:
            self._stack.append(_PLAIN[code])
        elif code in _NUMBERS:
            self._push(argument, _NUMBER + (argument.bit_length() // 8 if isinstance(argument, int) else 0))
        elif code == "BINUNICODE":
            self._push(argument, sys.getsizeof(argument))
        elif code in ("BINPUT", "LONG_BINPUT"):
            self._take(_MEMO)
            self._memo[argument] = self._stack[-1]
        elif code in ("BINGET", "LONG_BINGET"):
            self._share(self._memo[argument])
        elif code == "MARK":
            self._take(_MARK)
            self._below.append(self._stack)
            self._stack = []
        elif code not in ("PROTO", "STOP"):
            self._build(code, argument)

    def _build(self, code: str, argument: Any) -> None:
        if code == "EMPTY_LIST":
            self._hold("list", _LIST)
        elif code == "EMPTY_DICT":
            self._hold("mapping", _MAPPING)
        elif code == "EMPTY_TUPLE":
            self._stack.append(())
        elif code in ("TUPLE1", "TUPLE2", "TUPLE3"):
            self._fix([self._pop() for _ in range(int(code[-1]))][::-1])
        elif code == "TUPLE":
            self._fix(self._pop_mark())
        elif code in ("APPEND", "APPENDS"):
            entries = self._pop_mark() if code == "APPENDS" else [self._pop()]
            self._fill(self._held("list"), entries, _STEP * len(entries))
        elif code in ("SETITEM", "SETITEMS"):
            pairs = self._pop_mark() if code == "SETITEMS" else [self._pop(), self._pop()][::-1]
            self._set(pairs)
        elif code == "GLOBAL":
            self._name(argument)
        elif code == "BINPERSID":
            self._push(self._storage(self._pop()), _STORAGE)
        elif code == "REDUCE":
            self._call()
        elif code == "BUILD":
            state = self._held("mapping")
            self._pop()
            self._held("ordered").cost += state.cost
            if state.keys != ("_metadata",):
                _raise_invalid("it sets attributes of a mapping")
        else:
            _raise_invalid(f"it has the instruction {code}, which no checkpoint needs")

    def _set(self, pairs: list[Any]) -> None:
        if len(pairs) % 2:
            _raise_invalid("its pickle is damaged")
        mapping = self._held("mapping", "ordered")
        self._fill(mapping, pairs, _PAIR * len(pairs) // 2)
        for key in pairs[::2]:
            # Integers of many digits can be made to collide.
            if not isinstance(key, str) and not (isinstance(key, int) and key.bit_length() <= 64):
                _raise_invalid("a key of a mapping is neither a text nor a number")
        if mapping.kind == "mapping":
            mapping.keys = (*mapping.keys, *pairs[:4:2])[:2]

    def _name(self, argument: str) -> None:
        if argument not in (ORDERED_DICT, REBUILD_TENSOR, REBUILD_PARAMETER, *ITEM_SIZES):
            _raise_invalid(f"it names {argument[:100]!r}, which is neither a tensor nor a plain value")
        self._stack.append(_Name(argument))

    def _storage(self, described: Any) -> _Storage:
        """Return the storage that a persistent id describes."""
        if not isinstance(described, tuple) or len(described) != 5:
            _raise_invalid("its pickle is damaged: what it takes for a storage is none")
        kind, name, key, device, numel = described
        if kind != "storage" or not isinstance(name, _Name) or name.text not in ITEM_SIZES:
            _raise_invalid("its pickle is damaged: what it takes for a storage is none")
        if not (isinstance(key, str) and isinstance(device, str) and _is_count(numel)):
            _raise_invalid("its pickle is damaged: what it takes for a storage is none")
        storage = _Storage(numel, ITEM_SIZES[name.text])
        if self._storages.get(key) != numel * storage.item_size:
            found = self._storages.get(key, "no")
            _raise_invalid(f"storage {key[:100]!r} has {found} bytes; its pickle says {numel * storage.item_size}")
        return storage

    def _call(self) -> None:
        """Follow the call of a function with a tuple of arguments."""
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            _raise_invalid("its pickle is damaged: it calls what is no function")
        if function.text == ORDERED_DICT and arguments == ():
            self._hold("ordered", _ORDERED)
        elif function.text == REBUILD_TENSOR and len(arguments) == 6:
            self._rebuild(*arguments)
        elif function.text == REBUILD_PARAMETER and len(arguments) == 3:
            if not isinstance(arguments[0], _Held) or arguments[0].kind != "tensor":
                _raise_invalid("its pickle is damaged: a parameter is made of no tensor")
            self._push(arguments[0], _TENSOR)
        else:
            _raise_invalid(f"it calls {function.text!r} with other arguments than a checkpoint does")

    def _rebuild(self, storage: Any, offset: Any, shape: Any, strides: Any, requires_grad: Any, hooks: Any) -> None:
        if not isinstance(storage, _Storage) or not _are_counts((offset,)):
            _raise_invalid("its pickle is damaged: a tensor has no storage")
        if not (_are_counts(shape) and _are_counts(strides) and len(shape) == len(strides) <= 64):
            _raise_invalid("its pickle is damaged: a tensor has no shape")
        numel = prod(shape)
        last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
        if numel and (numel > storage.numel or last >= storage.numel):
            _raise_invalid(
                f"a tensor of shape {str(list(shape))[:100]} has more entries than its storage, {storage.numel}"
            )
        self._take_tensor(numel * storage.item_size)
        self._take(_TENSOR)
        self._stack.append(_Held("tensor", numel * storage.item_size))

    def _hold(self, kind: str, cost: int) -> None:
        """Push an empty list or mapping."""
        self._push(_Held(kind, cost), cost)

    def _fix(self, entries: list[Any]) -> None:
        """Push a tuple."""
        fixed, cost = _Fixed(entries), _TUPLE + _STEP * len(entries)
        fixed.cost = cost + sum(map(_cost, entries))
        self._push(fixed, cost)

    def _fill(self, held: _Held, entries: list[Any], cost: int) -> None:
        """Put entries into a list or mapping, which no other place may know yet: else they could hold themselves."""
        if held.is_shared:
            _raise_invalid("it fills a list or mapping that stands in another place too, which no checkpoint needs")
        self._take(cost)
        held.cost += cost + sum(map(_cost, entries))

    def _share(self, value: Any) -> None:
        """Push a value that stands in another place too; it costs what a second one would.

        Whoever goes through what was loaded meets it in every place, and ten lists that each hold the one before ten
        times are ten thousand million entries.
        """
        if isinstance(value, _Held):
            value.is_shared = True
        if isinstance(value, _Held) and value.kind == "tensor":
            self._take_tensor(value.cost)
        else:
            self._take(_cost(value))
        self._stack.append(value)

    def _held(self, *kinds: Any) -> _Held:
        """Return the last value, which has to be of one of those kinds."""
        value = self._stack[-1]
        if not isinstance(value, _Held) or value.kind not in kinds:
            _raise_invalid("its pickle is damaged: it fills what is no list or mapping")
        return value

    def _push(self, value: Any, cost: int) -> None:
        self._take(cost)
        self._stack.append(value)

    def _pop(self) -> Any:
        return self._stack.pop()

    def _pop_mark(self) -> list[Any]:
        entries, self._stack = self._stack, self._below.pop()
        return entries

    def _take_tensor(self, size: int) -> None:
        self._tensors_left -= size
        if self._tensors_left < 0:
            _raise_invalid("its tensors share storages and would be larger apart than twice the file")

    def _take(self, cost: int) -> None:
        self._left -= cost
        if self._left < 0:
            _raise_invalid("its lists, mappings and texts would take more memory than twice the file plus 64 MB")


def _cost(value: Any) -> int:
    """Return the bytes of memory of a value with all that it holds; a tensor counts what lists hold of it."""
    if isinstance(value, _Held):
        return _TENSOR if value.kind == "tensor" else value.cost
    if isinstance(value, str):
        return max(0, len(value) - _SHORT)
    return value.cost if isinstance(value, _Fixed) else 0


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _are_counts(values: Any) -> bool:
    return isinstance(values, tuple) and all(map(_is_count, values))


def _raise_invalid(why: str) -> NoReturn:
    raise ValueError(why)
