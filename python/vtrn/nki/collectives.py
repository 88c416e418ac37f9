"""nki.collectives: names only so far."""

from vtrn.nki.language import NKIObject


class ReplicaGroup(NKIObject):
    """Groups of ranks that take part in a collective operation."""

    def __init__(self, groups):
        super().__init__(groups=[list(group) for group in groups])
        ranks = [rank for group in self.groups for rank in group]
        if len(set(ranks)) != len(ranks):
            raise ValueError(f"ReplicaGroup({groups}): a rank is in one group")


_ABSENT = ("all_reduce", "all_gather", "all_gather_v", "reduce_scatter", "all_to_all", "all_to_all_v",
           "collective_permute", "collective_permute_implicit", "collective_permute_implicit_reduce",
           "collective_permute_implicit_current_processing_rank_id", "rank_id")


def __getattr__(name):
    if name in _ABSENT:
        def absent(*args, **kwargs):
            raise NotImplementedError(f"nki.collectives.{name} is not there yet; docs/nki.md lists what is")

        return absent
    raise AttributeError(f"module 'nki.collectives' has no attribute {name!r}")
