"""Find which hidden states every parameter of a one-step model drives."""

from importlib.metadata import PackageNotFoundError as _NotInstalled
from importlib.metadata import version as _version

from etrace_compiler._compile import (
    add_hidden_perturbation_from_minfo,
    add_hidden_perturbation_in_module,
    compile_etrace_graph,
    find_hidden_groups_from_minfo,
    find_hidden_groups_from_module,
    find_hidden_param_op_relations_from_minfo,
    find_hidden_param_op_relations_from_module,
)
from etrace_compiler._jax import is_traced
from etrace_compiler.analysis.beside import columns_beside
from etrace_compiler.analysis.carried import carried_part, carried_states
from etrace_compiler.analysis.neighbours import (
    PositionNeighbours,
    driving_parameters,
    position_neighbours,
)
from etrace_compiler.analysis.patterns import drive_pattern, transition_pattern
from etrace_compiler.canonical import ControlFlowPolicy
from etrace_compiler.contract import Dropped, GroupExactness, Verdict, WeightExactness
from etrace_compiler.diagnostics import CompilationRecord, DiagnosticKind, DiagnosticLevel
from etrace_compiler.drawing import draw
from etrace_compiler.errors import CompilationError, CompilationWarning, NotSupportedError
from etrace_compiler.evaluate import StepEvaluator, effective_weights, run_step
from etrace_compiler.executor import ETraceGraphExecutor, ETraceVjpGraphExecutor
from etrace_compiler.graph import ETraceGraph, HiddenPerturbation
from etrace_compiler.input_data import (
    MultiStepData,
    SingleStepData,
    get_single_step_data,
    split_input_data,
)
from etrace_compiler.linearise import Linearisation, Lineariser, gather_positions
from etrace_compiler.ops import (
    Operator,
    SparseInput,
    check_operator,
    conv,
    einsum,
    element_wise,
    embedding,
    grouped_matmul,
    lora_matmul,
    matmul,
    operator_named,
    operators,
    register_primitive,
    sparse_matmul,
)
from etrace_compiler.portable import jaxpr_fingerprint
from etrace_compiler.relation import CutEdge, HiddenGroup, HiddenParamOpRelation
from etrace_compiler.replay import Part, Replay
from etrace_compiler.report import CompilationReport, describe_graph
from etrace_compiler.staging import ModuleInfo, StateSpec, extract_module_info, path_key

try:
    __version__ = _version('etrace-compiler')
except _NotInstalled:  # a source tree that was put on the path
    __version__ = '0.0.0'

__all__ = [
    'CompilationError',
    'CompilationRecord',
    'CompilationReport',
    'CompilationWarning',
    'ControlFlowPolicy',
    'CutEdge',
    'DiagnosticKind',
    'DiagnosticLevel',
    'Dropped',
    'ETraceGraph',
    'ETraceGraphExecutor',
    'ETraceVjpGraphExecutor',
    'GroupExactness',
    'HiddenGroup',
    'HiddenParamOpRelation',
    'HiddenPerturbation',
    'Linearisation',
    'Lineariser',
    'ModuleInfo',
    'MultiStepData',
    'NotSupportedError',
    'Operator',
    'Part',
    'PositionNeighbours',
    'Replay',
    'SingleStepData',
    'SparseInput',
    'StateSpec',
    'StepEvaluator',
    'Verdict',
    'WeightExactness',
    'add_hidden_perturbation_from_minfo',
    'add_hidden_perturbation_in_module',
    'carried_part',
    'carried_states',
    'check_operator',
    'columns_beside',
    'compile_etrace_graph',
    'conv',
    'describe_graph',
    'draw',
    'drive_pattern',
    'driving_parameters',
    'effective_weights',
    'einsum',
    'element_wise',
    'embedding',
    'extract_module_info',
    'find_hidden_groups_from_minfo',
    'find_hidden_groups_from_module',
    'find_hidden_param_op_relations_from_minfo',
    'find_hidden_param_op_relations_from_module',
    'gather_positions',
    'get_single_step_data',
    'grouped_matmul',
    'is_traced',
    'jaxpr_fingerprint',
    'lora_matmul',
    'matmul',
    'operator_named',
    'operators',
    'path_key',
    'position_neighbours',
    'register_primitive',
    'run_step',
    'sparse_matmul',
    'split_input_data',
    'transition_pattern',
]
