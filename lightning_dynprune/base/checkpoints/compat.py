"""The names in a checkpoint that torch does not document; tests/base/checkpoints/test_compat.py checks each of them."""

from __future__ import annotations

# The names in the pickle of a checkpoint by which torch rebuilds tensors, and the bytes of one value of each storage.
# If torch renames one, `read_checkpoint` refuses every checkpoint, since it accepts no other names.
ORDERED_DICT = "collections OrderedDict"
REBUILD_TENSOR = "torch._utils _rebuild_tensor_v2"
REBUILD_PARAMETER = "torch._utils _rebuild_parameter"
ITEM_SIZES = {f"torch {kind}Storage": 8 for kind in ("Double", "Long", "ComplexFloat")}
ITEM_SIZES |= {"torch FloatStorage": 4, "torch IntStorage": 4, "torch ComplexDoubleStorage": 16}
ITEM_SIZES |= {f"torch {kind}Storage": 2 for kind in ("Half", "BFloat16", "Short")}
ITEM_SIZES |= {f"torch {kind}Storage": 1 for kind in ("Bool", "Byte", "Char")}

# The files inside a checkpoint's archive: that pickle, the folder of the storages, and notes on the format. If torch
# renames one or writes another, `read_checkpoint` refuses every checkpoint, since it accepts no other files.
PICKLE_FILE = "data.pkl"
STORAGE_FOLDER = "data/"
FORMAT_FILES = ("version", "byteorder", ".format_version", ".storage_alignment", ".data/serialization_id")
