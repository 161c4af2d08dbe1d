"""What a model may say: the operators that mark its trainable operations."""

from etrace_compiler.ops._conv import conv, conv_op
from etrace_compiler.ops._einsum import einsum, einsum_op
from etrace_compiler.ops._element_wise import element_wise, element_wise_op
from etrace_compiler.ops._embedding import embedding, embedding_op
from etrace_compiler.ops._facts import Likeness, Operator, check_operator
from etrace_compiler.ops._lora import lora_matmul, lora_matmul_op
from etrace_compiler.ops._matmul import grouped_matmul, grouped_matmul_op, matmul, matmul_op
from etrace_compiler.ops._primitive import (
    operator_named,
    operator_of,
    operators,
    register_primitive,
)
from etrace_compiler.ops._sparse import sparse_matmul, sparse_matmul_op
from etrace_compiler.ops._sparse_input import SparseInput

__all__ = [
    'Likeness',
    'Operator',
    'SparseInput',
    'check_operator',
    'conv',
    'conv_op',
    'einsum',
    'einsum_op',
    'element_wise',
    'element_wise_op',
    'embedding',
    'embedding_op',
    'grouped_matmul',
    'grouped_matmul_op',
    'lora_matmul',
    'lora_matmul_op',
    'matmul',
    'matmul_op',
    'operator_named',
    'operator_of',
    'operators',
    'register_primitive',
    'sparse_matmul',
    'sparse_matmul_op',
]
