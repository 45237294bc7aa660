"""Every method of the RPC, by name."""

from collections.abc import Mapping
from types import MappingProxyType

from node.rpc.methods import channels, fees, invoices, node, onchain, payments, peers, watch
from node.rpc.table import Method

_GROUPS = (node, onchain, fees, peers, channels, invoices, payments, watch)
METHODS: Mapping[str, Method] = MappingProxyType(
    {method.name: method for group in _GROUPS for method in group.METHODS}
)
