"""Where a notebook reads another text than the book's own, what it claims of that text is shown and not asserted."""

import ast
import os
import sys


class _Shown(ast.NodeTransformer):
    """Lets a cell go on after an ``assert`` that does not hold; a line says which."""

    def visit_Assert(self, node: ast.Assert) -> ast.Try:
        """Put the statement into a ``try`` that prints what is not so."""
        line = f"Not so with this text: {ast.unparse(node.test)}"
        shown = ast.Expr(ast.Call(ast.Name("print", ast.Load()), [ast.Constant(line)], []))
        handler = ast.ExceptHandler(ast.Name("AssertionError", ast.Load()), None, [shown])
        return ast.fix_missing_locations(ast.copy_location(ast.Try([node], [handler], [], []), node))


def show_claims() -> None:
    """From the next cell on, an ``assert`` that does not hold prints a line, in the notebook that this is called from.

    ``assert_close`` and other checks that are calls stay as they are; outside of IPython nothing changes, nor
    where the book's stored outputs are made or tested.
    """
    if os.environ.get("LLMBOOK_STORED_OUTPUTS"):
        return
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is not None and not any(isinstance(one, _Shown) for one in shell.ast_transformers):
        shell.ast_transformers.append(_Shown())
