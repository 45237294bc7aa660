"""Every method of the RPC, by name."""

from collections.abc import Mapping
from types import MappingProxyType

from node.rpc.methods import (
    backup,
    channels,
    fees,
    forwards,
    holds,
    invoices,
    network,
    node,
    onchain,
    parts,
    payments,
    peers,
    reserve,
    tower,
    watch,
    why,
)
from node.rpc.table import Method

_GROUPS = (
    node,
    onchain,
    fees,
    peers,
    channels,
    network,
    invoices,
    payments,
    parts,
    holds,
    forwards,
    backup,
    reserve,
    tower,
    watch,
    why,
)
METHODS: Mapping[str, Method] = MappingProxyType(
    {method.name: method for group in _GROUPS for method in group.METHODS}
)
