"""Process groups and parameters sharded over their processes (FSDP2, tensor parallelism).

May import base.
"""

from lightning_dynprune.distributed.checksums import mask_checksum
from lightning_dynprune.distributed.held_errors import HeldErrors
from lightning_dynprune.distributed.join_check import JoinCheck
from lightning_dynprune.distributed.ranks import RankError, Ranks
from lightning_dynprune.distributed.same_settings import check_same_settings
from lightning_dynprune.distributed.shards import Shard, is_sharded, local_part, owned_here

__all__ = [
    "HeldErrors",
    "JoinCheck",
    "RankError",
    "Ranks",
    "Shard",
    "check_same_settings",
    "is_sharded",
    "local_part",
    "mask_checksum",
    "owned_here",
]
