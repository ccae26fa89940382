"""Process groups and parameters sharded over them.

May import base.
"""

from lightning_dynprune.distributed.ranks import Ranks, checksum
from lightning_dynprune.distributed.shards import Shard, here, is_sharded, owned_here

__all__ = ["Ranks", "Shard", "checksum", "here", "is_sharded", "owned_here"]
