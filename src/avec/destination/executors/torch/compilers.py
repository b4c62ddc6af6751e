"""What makes a graph's module fast: torch's Inductor, where there is the compiler that it needs.

Whatever fails in compiling, the graph is carried out operator by operator: the results are the same.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence

from torch import Tensor, fx

from avec import config
from avec.protocol.torch_graph import COMPILER_OPTIONS, Graph

Compiled = Callable[..., Sequence[Tensor]]

log = logging.getLogger("avec.destination")


def compiled(module: fx.GraphModule, graph: Graph, cuda: bool, inputs: Sequence[object]) -> Compiled:
    """Make a function of a graph's module.

    Args:
        cuda: it works on a GPU, for which Triton has to be there; else a C++ compiler.
        inputs: of the first call.
    """
    plain: Compiled = module.forward
    if not graph.compiled or not config.load().compile_graphs or not _compiler_works(cuda):
        return plain
    options = {name: value for name, value in graph.options.items() if name in COMPILER_OPTIONS and _is_known(name)}
    try:
        if None in graph.inputs:
            return _compiled_as_needed(module, options)
        from torch._inductor import compile as compile_graph

        function: Compiled = compile_graph(module, list(inputs), options=options)  # type: ignore[arg-type]
        return function
    except Exception as exc:  # whatever a compiler may come upon
        log.warning("a graph of %d nodes is not compiled: %s: %s", len(module.graph.nodes), type(exc).__name__, exc)
        return plain


def _compiled_as_needed(module: fx.GraphModule, options: dict[str, bool]) -> Compiled:
    """Compile at the first call, for sizes that vary; and again, a few times, when that was not general enough."""
    import torch._dynamo

    torch._dynamo.config.suppress_errors = True  # this process's: where compiling fails, the module is called
    function: Compiled = torch.compile(module, dynamic=True, options=options)  # type: ignore[arg-type]
    return function


@functools.cache
def _compiler_works(cuda: bool) -> bool:
    """Look once whether there is what Inductor needs."""
    if cuda:
        from torch.utils._triton import has_triton

        works = has_triton()
    else:
        works = _has_cpp_compiler()
    if not works:
        log.info("graphs are carried out operator by operator: there is no %s", "Triton" if cuda else "C++ compiler")
    return works


def _has_cpp_compiler() -> bool:
    from torch._inductor import cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    except (exc.InvalidCxxCompiler, OSError):
        return False
    return True


def _is_known(name: str) -> bool:
    from torch._inductor import config as inductor

    return hasattr(inductor, name)
