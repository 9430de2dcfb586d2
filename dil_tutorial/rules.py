"""What an answer to an assignment may do: tests and answers share one interpreter, so an answer could switch tests off.

The rules close the ways that need no more malice than an idle afternoon's; the sandbox closes files, network and memory to all.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Collection, Sequence

MODULES = ("torch", "numpy", "math", "itertools", "functools", "collections", "copy")
BUILTINS = {name for name in dir(builtins) if not name.startswith("_")}
REACHING = {  # names by which code reads or changes what is not its own
    "In", "Out", "breakpoint", "builtins", "compile", "ctypes", "delattr", "eval", "exec", "exit", "f_back", "f_globals",
    "f_locals", "gc", "get_ipython", "getattr", "gi_frame", "globals", "hub", "importlib", "input", "inspect", "library",
    "locals", "modules", "multiprocessing", "open", "os", "overrides", "quit", "setattr", "subprocess", "sys", "tb_frame",
    "update_wrapper", "vars",
}  # fmt: skip
TENSORS_OWN = ("data", "grad", "requires_grad")  # an optimiser's step may set them
SCOPES = (
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.Lambda,
    ast.ClassDef,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
    ast.GeneratorExp,
)


def refused(code: str, given: Collection[str] = ()) -> str | None:
    """Why a cell breaks the rules, None if it does not; ``given`` names and Python's own must keep their meaning.

    >>> refused("def kl(p, q): return (p * (p / q).log()).sum()")
    >>> refused("from dil_tutorial.optima import rlhf")
    'line 1 imports dil_tutorial: answers may import torch, numpy, math, itertools, functools, collections, copy'
    >>> refused("torch.allclose = print")
    'line 1 sets torch.allclose: an answer changes nothing inside a module or a foreign object'
    >>> refused("range = print"), refused("def expect(*a): pass", given={"expect"})
    ("line 1 gives 'range' a new meaning: choose another name", "line 1 gives 'expect' a new meaning: choose another name")
    """
    try:
        tree = ast.parse(code)
    except SyntaxError as error:
        magic = any(line.lstrip().startswith(("%", "!", "?")) for line in code.splitlines())
        return (
            f"line {error.lineno} is not Python: leave lines with % and ! out" if magic else None
        )  # else Python says so itself
    kept = BUILTINS | set(given)
    local = {inner for node in ast.walk(tree) if isinstance(node, SCOPES) for inner in ast.walk(node) if inner is not node}
    for node in ast.walk(tree):
        outermost = node not in local or isinstance(node, ast.NamedExpr)  # := within a comprehension binds outside of it
        why = breach(node) or next(
            (f"gives {name!r} a new meaning: choose another name" for name in bound(node) if name in kept and outermost), None
        )
        if why:
            return f"line {getattr(node, 'lineno', 1)} {why}"
    return None


def bound(node: ast.AST) -> list[str]:
    """The names to which one node of a syntax tree gives a value."""
    match node:
        case ast.Name(id=name, ctx=ast.Store() | ast.Del()) | ast.NamedExpr(target=ast.Name(id=name)):
            return [name]
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case (
            ast.ExceptHandler(name=str(name))
            | ast.MatchAs(name=str(name))
            | ast.MatchStar(name=str(name))
            | ast.MatchMapping(rest=str(name))
        ):
            return [name]
        case ast.Import(names=names):
            return [alias.asname for alias in names if alias.asname]  # a plain import gives a module its own name
        case ast.ImportFrom(module=module, names=names) if module != "dil_tutorial.exercises":
            return [alias.asname or alias.name for alias in names]
    return []


def breach(node: ast.AST) -> str | None:
    """The rule that one node of a syntax tree breaks, but for those about names' meaning."""
    match node:
        case ast.Import(names=names):
            return next(filter(None, (outside(alias.name) for alias in names)), None)
        case ast.ImportFrom(
            module="dil_tutorial.rules" | "dil_tutorial.exercises",
            names=[ast.alias(name="may_hand_in" | "expect", asname=None)],
        ):
            return None
        case ast.ImportFrom(module=module, names=names, level=level):
            if any(alias.name == "*" for alias in names):
                return "imports *: name what you need"
            return next(filter(None, (outside(f"{'.' * level}{module or ''}.{alias.name}") for alias in names)), None)
        case ast.Name(id=name) if name in REACHING or (name.startswith("_") and name != "_"):
            return f"uses {name}: it reaches outside the answer"
        case ast.Attribute(attr=name) if name in REACHING or (name.startswith("_") and name != "__init__"):
            return f"uses .{name}: it reaches outside the answer"
        case ast.Attribute(value=owner, attr=name, ctx=ast.Store() | ast.Del()) if name not in TENSORS_OWN:
            if not (isinstance(owner, ast.Name) and owner.id == "self"):
                return f"sets {ast.unparse(node)}: an answer changes nothing inside a module or a foreign object"
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name) if name.startswith("_") and name != "__init__":
            return f"defines {name}: names that begin with an underscore are Python's"
        case ast.Global():
            return "says global: return what others are to see"
        case ast.Call(func=ast.Name(id="type"), args=[_, _, *_]):
            return "makes a class by type(...): write class"
    return None


def outside(path: str) -> str | None:
    """What is wrong with importing ``path``, None if nothing is.

    >>> outside("math.log"), outside("torch.hub")
    (None, 'imports torch.hub: it reaches outside the answer')
    """
    first, *rest = path.split(".")
    if first not in MODULES:
        return f"imports {first or path}: answers may import {', '.join(MODULES)}"
    return (
        f"imports {path}: it reaches outside the answer"
        if REACHING & set(rest) or any(part.startswith("_") for part in rest)
        else None
    )


def may_hand_in(cells: Sequence[str]) -> None:
    """Say whether the cells of a fresh run, Jupyter's ``In``, keep the rules.

    >>> may_hand_in(["", "import torch", "def f(x): return eval(x)"])
    cell [2], line 1 uses eval: it reaches outside the answer
    Mend this, restart the kernel and run all cells.
    >>> may_hand_in(["", "import torch"])
    The rules are kept: you may hand in.
    """
    own = ((number, refused(code, {"torch", "expect"})) for number, code in enumerate(cells) if "may_hand_in(In)" not in code)
    found = [f"cell [{number}], {why}" for number, why in own if why]
    print(
        "\n".join(
            [*found, "Mend this, restart the kernel and run all cells." if found else "The rules are kept: you may hand in."]
        )
    )
