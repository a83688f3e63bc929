"""Record a function of tensors once, as a flat list of tensor operations, and replay that list.

torch.func nests one interpreter for every vmap and every derivative, and each operation passes through all of them: for
the small products of a few agents that takes longer than the products. A recording has the nesting worked out. It is
then tidied, by rewriting that holds for all values and changes results by rounding at most:

    the same operation on the same tensors is done once
    views that change nothing, and transpositions of transpositions, go
    A (s B)     becomes  s (A B)               where B is larger than the product
    W + s A B   becomes  one fused operation   which neither writes A B to memory nor reads it back,
                         and writes over W     where that is an intermediate result that nothing else needs

A recording holds for tensors of the shapes it was made with.
"""

import math
import operator
import threading
from collections.abc import Callable, Hashable
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch.func import functionalize
from torch.fx import Graph, GraphModule, Node
from torch.fx._lazy_graph_module import _use_lazy_graph_module
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from .watching import BeforeEveryOperation

aten = torch.ops.aten
_VIEWS = (aten.reshape.default, aten._unsafe_view.default, aten.expand.default, aten.slice.Tensor)
_recording = threading.Lock()  # torch records one function at a time


def capture(
    function: Callable[..., Any],
    *example: Any,
    look_up: Callable[[], None] = lambda: None,
    compiled: bool = False,
) -> Callable[..., Any]:
    """Return a faster equal of function(*example), for arguments of the same structure, shapes and types.

    The function may not branch on values of tensors, as under vmap. The result carries no graph for autograd.
    `look_up` is called all the time, and what it raises ends the recording, which may take seconds. `compiled` hands
    the recording on to torch.compile.

    >>> double = capture(lambda x: x + x, torch.ones(2))
    >>> double(torch.tensor([1.0, 2.0]))
    tensor([2., 4.])
    """

    leaves, structure = tree_flatten(example)

    @functionalize  # so that the recorded operations change nothing in place
    def watched(*leaves: Any) -> Any:
        with BeforeEveryOperation(look_up):
            return function(*tree_unflatten(leaves, structure))

    while not _recording.acquire(timeout=0.05):
        look_up()
    try:
        with torch.no_grad(), _use_lazy_graph_module(True):
            different = [leaf.detach() for leaf in leaves]  # one tensor in two places would become one argument
            recorded = make_fx(watched, tracing_mode="fake", _allow_non_fake_inputs=True)(*different)
    finally:
        _recording.release()
    for constant in recorded.graph.find_nodes(op="get_attr"):
        constant.meta.setdefault("val", getattr(recorded, constant.target))  # which torch 2.6 leaves out
    _tidy(recorded.graph, look_up, compiled)
    replay = torch.compile(_as_function(recorded)) if compiled else _as_function(recorded)

    def replayed(*args: Any) -> Any:
        with torch.no_grad():
            return replay(*structure.flatten_up_to(args))

    return replayed


MOST_KEPT = 8
_kept: dict[Hashable, Callable[..., Any]] = {}
_keeping = threading.Lock()


def recorded_once(key: Hashable, record: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
    """Return what is recorded under a key, one of this process's last ones, or record it.

    A recording takes as long as hundreds of small steps, and runs that differ in their agents, seed or w alone need the
    same. The key says all that the function depends on, but the values of its arguments.
    """
    with _keeping:
        found = _kept.pop(key, None)
    found = found or record()
    with _keeping:
        _kept[key] = found
        while len(_kept) > MOST_KEPT:
            del _kept[next(iter(_kept))]  # the one that was asked for longest ago
    return found


def forget() -> None:
    """Let go of the recordings that this process keeps: the next runs make their own."""
    with _keeping:
        _kept.clear()


def kinds(example: Any) -> str:
    """Return what a recording of an example holds for: the structure, and the tensors' shapes, types and devices."""
    return str(tree_map(lambda tensor: (tuple(tensor.shape), tensor.dtype, tensor.device), example))


def _tidy(graph: Graph, look_up: Callable[[], None], compiled: bool) -> None:
    for node in graph.nodes:
        if node.target is aten.view.default:
            node.target = aten.reshape.default  # real strides need not be the predicted ones
    if any(_changes_in_place(node) for node in graph.nodes):
        return  # an argument; it is not the same before and after
    rewrites = partial(_do_once, {}), _drop_what_changes_nothing, _multiply_the_smaller, _fuse_products_with_sums
    for rewrite in rewrites:
        for node in list(graph.nodes):
            look_up()
            rewrite(node)
        graph.eliminate_dead_code()
    if not compiled:  # which does this itself
        _write_over_what_is_used_up(list(graph.nodes))


def _as_function(recorded: GraphModule) -> Callable[..., Any]:
    """Compile a recording by hand: torch.fx would keep the source, tens of thousands of characters, forever."""
    code = recorded.graph.python_code("self")
    names = dict(code.globals)
    exec(code.src, names)  # as torch.fx itself does; it is written from the recorded operations alone
    return MethodType(names.pop("forward"), recorded)  # which holds the tensors that the function closes over


def _do_once(done: dict[Any, Node], node: Node) -> None:
    if node.op == "call_function" and torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        # As text: 1, 1.0 and True are equal, and so are 0.0 and -0.0, but not the same.
        first = done.setdefault((node.target, repr(_args(node)), repr(node.kwargs)), node)
        if first is not node:
            node.replace_all_uses_with(first)


def _drop_what_changes_nothing(node: Node) -> None:
    source = _args(node)[0] if _args(node) else None
    if not isinstance(source, Node):
        return
    if (node.target in _VIEWS and _shape(node) == _shape(source)) or _scale(node) == 1:
        node.replace_all_uses_with(source)
    elif _transposed(node) and _transposed(source) and _axes(node) == _axes(source):
        node.replace_all_uses_with(_args(source)[0])


def _multiply_the_smaller(node: Node) -> None:
    """A (s B) → s (A B), if all that is done with s B is to multiply it."""
    if _scale(node) is None or not (products := _products_of(node)):
        return
    if sum(math.prod(_shape(product)) for product in products) >= math.prod(_shape(node)):
        return
    for product in products:
        with node.graph.inserting_after(product):
            scaled = node.graph.call_function(aten.mul.Scalar, (product, _scale(node)))
        scaled.meta = product.meta
        product.replace_all_uses_with(scaled, delete_user_cb=partial(operator.is_not, scaled))
    node.replace_all_uses_with(_args(node)[0])


def _fuse_products_with_sums(node: Node) -> None:
    """W + s A B → baddbmm(W, A, B), with s a number; by a tensor [] or [agents, 1, 1] the smaller factor is scaled."""
    if not _is(node, aten.add.Tensor):
        return
    scale = node.kwargs.get("alpha", 1)
    first, second = _args(node)
    for term, summand in ((first, second), (second, first)) if scale == 1 else ((first, second),):
        if not (isinstance(summand, Node) and isinstance(term, Node) and _kind(term) == _kind(summand) == _kind(node)):
            continue
        by, product = _tensor_scale(summand)
        turned = _transposed(product) and _axes(product) == {1, 2} and len(product.users) == 1
        product = _args(product)[0] if turned else product
        if not _is(product, aten.bmm.default) or len(product.users) != 1:
            continue
        with node.graph.inserting_before(node):
            factors = list(_args(product))
            if by:
                smaller = min((0, 1), key=lambda place: math.prod(_shape(factors[place])))
                scaled = node.graph.call_function(aten.mul.Tensor, (factors[smaller], by))
                scaled.meta = factors[smaller].meta
                factors[smaller] = scaled
            if turned:  # (A B)ᵀ = Bᵀ Aᵀ
                factors = [node.graph.call_function(aten.transpose.int, (factor, 1, 2)) for factor in factors[::-1]]
            fused = node.graph.call_function(aten.baddbmm.default, (term, *factors), {"alpha": scale})
        fused.meta = node.meta
        node.replace_all_uses_with(fused)
        return


def _write_over_what_is_used_up(nodes: list[Node]) -> None:
    """baddbmm(W, A, B) → baddbmm_(W, A, B), if W is intermediate and nothing else needs it any more."""
    position = {node: i for i, node in enumerate(nodes)}
    fresh = {node for node in nodes if node.op == "call_function" and not _shares_memory(node)}
    for node in nodes:
        if not _is(node, aten.baddbmm.default) or _args(node)[0] not in fresh:
            continue
        views = _views(_args(node)[0])
        last = max(position[user] for view in views for user in view.users)
        if last == position[node] and views.isdisjoint(_args(node)[1:]):
            node.target = aten.baddbmm_.default


def _views(node: Node) -> set[Node]:
    """Return a node and all that may be views of its memory."""
    return {node}.union(*(_views(user) for user in node.users if _shares_memory(user)))


def _shares_memory(node: Node) -> bool:
    """Whether a result may be a view of an argument; what is not one of torch's operations may."""
    if not isinstance(node.target, torch._ops.OpOverload) or node.target is aten._unsafe_view.default:
        return True
    return any(returned.alias_info is not None for returned in node.target._schema.returns)


def _products_of(node: Node) -> list[Node]:
    """Return the products that a tensor goes into, through transpositions; none if it goes anywhere else."""
    found = []
    for user in node.users:
        further = _products_of(user) if _transposed(user) else [user] * _is(user, aten.bmm.default)
        if not further:
            return []
        found += further
    return found


def _changes_in_place(node: Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _args(node: Node) -> tuple[Any, ...]:
    """Return an operation's arguments; torch's own type of them is a union of twenty, which no rewrite could narrow."""
    return node.args


def _is(node: Node, operation: Any) -> bool:
    return node.op == "call_function" and node.target is operation


def _scale(node: Node) -> float | None:
    """Return s of a node s A, None of any other."""
    scaling = _is(node, aten.mul.Scalar) or (_is(node, aten.mul.Tensor) and not isinstance(_args(node)[1], Node))
    return _args(node)[1] if scaling and _kind(node) == _kind(_args(node)[0]) else None


def _tensor_scale(node: Node) -> tuple[Node | None, Node]:
    """Return s and A of a node s A used once, s a tensor [] or [agents, 1, …]; None and the node of any other."""
    if _is(node, aten.mul.Tensor) and len(node.users) == 1 and all(isinstance(factor, Node) for factor in _args(node)):
        by, scaled = sorted(_args(node), key=lambda factor: math.prod(_shape(factor)))
        of_agents = len(_shape(by)) == len(_shape(node)) and math.prod(_shape(by)) == _shape(by)[0]
        if (not _shape(by) or of_agents) and _kind(scaled) == _kind(node):
            return by, scaled
    return None, node


def _transposed(node: Node) -> bool:
    return _is(node, aten.transpose.int)


def _axes(node: Node) -> set[int]:
    return {axis % len(_shape(node)) for axis in _args(node)[1:]}


def _shape(node: Node) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


def _kind(node: Node) -> tuple[tuple[int, ...], torch.dtype]:
    return _shape(node), node.meta["val"].dtype
