"""Process groups and parameters sharded over their processes (FSDP2, tensor parallelism).

May import base.
"""

from lightning_dynprune.distributed.checksums import mask_checksum
from lightning_dynprune.distributed.ranks import Ranks
from lightning_dynprune.distributed.shards import Shard, is_sharded, local_part, owned_here

__all__ = ["Ranks", "Shard", "is_sharded", "local_part", "mask_checksum", "owned_here"]
