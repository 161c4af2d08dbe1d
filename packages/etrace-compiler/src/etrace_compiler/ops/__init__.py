"""What a model may say: the operators that mark its trainable operations."""

from etrace_compiler.ops._einsum import einsum, einsum_op
from etrace_compiler.ops._element_wise import element_wise, element_wise_op
from etrace_compiler.ops._facts import Operator, check_operator
from etrace_compiler.ops._matmul import grouped_matmul, grouped_matmul_op, matmul, matmul_op
from etrace_compiler.ops._primitive import (
    operator_named,
    operator_of,
    operators,
    register_primitive,
)

__all__ = [
    'Operator',
    'check_operator',
    'einsum',
    'einsum_op',
    'element_wise',
    'element_wise_op',
    'grouped_matmul',
    'grouped_matmul_op',
    'matmul',
    'matmul_op',
    'operator_named',
    'operator_of',
    'operators',
    'register_primitive',
]
