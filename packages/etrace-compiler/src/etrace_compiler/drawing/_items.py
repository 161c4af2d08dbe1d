"""The lines of a picture's boxes: arrays of the step, and marked operations with their weights."""

from collections.abc import Iterable, Sequence
from typing import Any

import brainunit as u
import jax

from etrace_compiler.contract import worst
from etrace_compiler.drawing._legs import place_of
from etrace_compiler.drawing._picture import Item
from etrace_compiler.graph import ETraceGraph
from etrace_compiler.ops import operator_of
from etrace_compiler.relation import HiddenParamOpRelation
from etrace_compiler.staging import StateSpec, path_key

__all__ = ['array_items', 'operator_item', 'state_items']


def array_items(tree: Any, prefix: str = '') -> list[Item]:
    """Describe the leaves of a structure of shapes and dtypes; a quantity is one leaf."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_quantity)
    items = []
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator='.')
        aval = jax.tree.leaves(leaf)[0]
        unit = str(u.get_unit(leaf)) if _is_quantity(leaf) else None
        name = '.'.join(filter(None, (prefix, name)))
        items.append(Item(name, tuple(aval.shape), str(aval.dtype), unit))
    return items


def state_items(specs: Iterable[StateSpec]) -> list[Item]:
    """Describe the leaves of states, in order."""
    found = (array_items(spec.treedef.unflatten(spec.leaves), spec.key) for spec in specs)
    return [item for items in found for item in items]


def operator_item(
    graph: ETraceGraph, i: int, relation: HiddenParamOpRelation | None, owners: Sequence[Item]
) -> Item:
    """Describe a marked operation.

    Args:
        graph: The graph.
        i: Index of its equation.
        relation: Its relation, if it has a trace.
        owners: The leaves of the parameters that its weight is made of.
    """
    eqn = graph.module_info.program.equations[i]
    name = eqn.name.removeprefix('etp_')
    weight = eqn.inputs[-1]
    return Item(
        name='*'.join(owner.name for owner in owners) or f'constant of {name}',
        shape=tuple(weight.shape),
        dtype=str(weight.dtype),
        unit=owners[0].unit if len(owners) == 1 else None,
        operator=name,
        block=relation.block_shape if relation else _block_shape(eqn),
        key=relation.key if relation else None,
        parameters=tuple(owner.name for owner in owners),
        exactness=_exactness(graph, relation) if relation else None,
        place=place_of(eqn.source),
    )


def _exactness(graph: ETraceGraph, relation: HiddenParamOpRelation) -> str:
    return str(worst(*(graph.exactness[path_key(p)].verdict for p in relation.trainable_paths)))


def _is_quantity(x: Any) -> bool:
    return isinstance(x, u.Quantity)


def _block_shape(eqn: Any) -> tuple[int, ...] | None:
    operator = operator_of(eqn.primitive)
    if operator is None:
        return None
    weight, y = (jax.ShapeDtypeStruct(v.shape, v.dtype) for v in (eqn.inputs[-1], eqn.outputs[0]))
    block = jax.eval_shape(lambda w: operator.w_block(w, **eqn.params), weight)
    shared = jax.eval_shape(lambda y: operator.y_block(y, weight.shape, **eqn.params), y).shape[0]
    return shared, *block.shape
