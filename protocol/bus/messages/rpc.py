"""What the RPC service is asked on the bus: its methods, as the CLN dialect has them (DESIGN, "The outside face")."""

from msgspec import Struct


class ListMethods(Struct, frozen=True, tag="rpc.list"):
    pass


class MethodInfo(Struct, frozen=True, array_like=True):
    """`moves_money`: it may spend, or end something for good. It is not run without `confirmed`."""

    name: str
    usage: str
    help: str
    moves_money: bool


class MethodTable(Struct, frozen=True, tag="rpc.methods"):
    methods: tuple[MethodInfo, ...]


class RunRpc(Struct, frozen=True, tag="rpc.run"):
    """`params`: JSON, a list or an object. `confirmed`: a person said yes to a method that moves money."""

    method: str
    params: bytes = b"[]"
    confirmed: bool = False


class RpcDone(Struct, frozen=True, tag="rpc.done"):
    """`result`: JSON."""

    result: bytes


class RpcFailed(Struct, frozen=True, tag="rpc.failed"):
    """The error of the dialect. `outcome_unknown`: it may have been done, or may still be."""

    code: int
    message: str
    outcome_unknown: bool
