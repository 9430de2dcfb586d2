"""What an answer to an assignment may do: tests and answers share one interpreter, so an answer could switch tests off.

The rules close the ways that need no more malice than an idle afternoon's; the sandbox closes files, network and memory to all.
"""

import ast
import builtins
import pkgutil
from collections.abc import Collection, Sequence
from types import ModuleType

import numpy
import torch

MODULES = ("torch", "numpy", "math", "itertools", "functools", "collections", "copy")
WITHIN = {
    "nn", "functional", "init", "optim", "lr_scheduler", "autograd", "func", "linalg", "special", "random", "fft",
    "distributions",
}  # fmt: skip
BUILTINS = {name for name in dir(builtins) if not name.startswith("_")}


def foreign_modules() -> set[str]:
    """Names of attributes that lead from torch and numpy to other modules than those WITHIN, among them all of Python.

    >>> {"hub", "utils", "ctypeslib", "os"} - foreign_modules(), {"nn", "linalg", "exp", "cuda"} & foreign_modules()
    (set(), set())
    """
    found = {module.name for package in (torch, numpy) for module in pkgutil.iter_modules(package.__path__)}
    functional, optim, autograd = torch.nn.functional, torch.optim, torch.autograd
    for place in (torch, numpy, torch.nn, functional, optim, autograd, torch.linalg, numpy.linalg, numpy.random):
        inner = {name: value.__name__ for name, value in vars(place).items() if isinstance(value, ModuleType)}
        found |= {name for name, full in inner.items() if not full.startswith(f"{place.__name__}.")}
    return found - WITHIN - set(dir(torch.Tensor)) - set(dir(numpy.ndarray))


REACHING = {  # names by which code reads or changes what is not its own
    "In", "Out", "breakpoint", "compile", "ctypes", "delattr", "dispatch_table", "eval", "exec", "exit", "f_back", "f_builtins",
    "f_code", "f_globals", "f_locals", "format", "format_map", "get_ipython", "getattr", "gi_frame", "globals", "input",
    "locals", "modules", "open", "quit", "setattr", "tb_frame", "update_wrapper", "vars", "wraps",
}  # fmt: skip
FILES = {  # an answer opens none: a pickle, for one, is a program
    "DataSource", "from_file", "fromfile", "genfromtxt", "load", "load_library", "loadtxt", "memmap", "save", "savetxt",
    "savez", "savez_compressed", "tofile",
}  # fmt: skip
OUTSIDE = REACHING | FILES | foreign_modules()
LONGEST = 100_000  # characters of a cell: what reads a long one takes gigabytes
TENSORS_OWN = ("data", "grad", "requires_grad")  # an optimiser's step may set them
COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
SCOPES = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef | COMPREHENSIONS


def refused(code: str, given: Collection[str] = ()) -> str | None:
    """Why a cell breaks the rules, None if it does not; ``given`` names and Python's own must keep their meaning.

    >>> refused("def kl(p, q): return (p * (p / q).log()).sum()")
    >>> refused("from dil_tutorial.optima import rlhf")
    'line 1 imports dil_tutorial: answers may import torch, numpy, math, itertools, functools, collections, copy'
    >>> refused("torch.allclose = print")
    'line 1 sets torch.allclose: objects get attributes in their __init__, modules and foreign objects none'
    >>> refused("range = print"), refused("def expect(*a): pass", given={"expect"})
    ("line 1 gives 'range' a new meaning: choose another name", "line 1 gives 'expect' a new meaning: choose another name")
    """
    if len(code) > LONGEST:
        return f"line 1 begins {len(code):,} characters: an answer has at most {LONGEST:,}"
    try:
        return breaks(ast.parse(code), given)
    except SyntaxError as error:
        return f"line {error.lineno or 1} is not Python ({error.msg}): what only IPython reads (%, !, ?, >>>) is left out"
    except (ValueError, RecursionError, MemoryError) as error:  # odd characters; expressions too deep for a parser
        return f"line 1 begins what Python cannot read ({type(error).__name__})"


def breaks(tree: ast.AST, given: Collection[str]) -> str | None:
    """The first rule that a cell breaks, with its line."""
    kept = BUILTINS | set(given)
    local = {inner for node in ast.walk(tree) if isinstance(node, SCOPES) for inner in ast.walk(node) if inner is not node}
    own = own_attributes(tree)
    for node in ast.walk(tree):
        outermost = node not in local or isinstance(node, ast.NamedExpr)  # := within a comprehension binds outside of it
        why = next(
            (f"gives {name!r} a new meaning" for name in bound(node) if name == "self" or (name in kept and outermost)), None
        )
        why = f"{why}: choose another name" if why else breach(node)
        if why and node not in own:
            return f"line {getattr(node, 'lineno', 1)} {why}"
    return None


def own_attributes(tree: ast.AST) -> set[ast.AST]:
    """The places where the __init__ of a class sets attributes of its own object, which no call can make another one.

    >>> code = "class A:\\n  def __init__(self): self.a = 1\\n  def f(self): self.b = 1"
    >>> [ast.unparse(node) for node in own_attributes(ast.parse(code))]
    ['self.a']
    """
    found = set[ast.AST]()
    for method in (part for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for part in node.body):
        match method:
            case ast.FunctionDef(name="__init__", args=ast.arguments(posonlyargs=[], args=[ast.arg(arg="self"), *_])):
                scopes = (node for node in ast.walk(method) if isinstance(node, SCOPES) and node is not method)
                inner = {part for scope in scopes for part in ast.walk(scope)}
                found |= {node for node in ast.walk(method) if node not in inner and sets_on_self(node)}
    return found


def sets_on_self(node: ast.AST) -> bool:
    """Whether a node is ``self.name`` with a value given to it, of a harmless name."""
    match node:
        case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
            return not reaches(name)
    return False


def defined(code: str) -> set[str]:
    """What a given cell defines for all: imported modules, functions and classes, but no passing variables.

    >>> sorted(defined("import math\\nfrom torch import nn\\ndef f(x): return x\\nx = 1"))
    ['f', 'math', 'nn']
    """
    lasting = [node for node in ast.parse(code).body if not isinstance(node, ast.Assign | ast.For | ast.Expr)]
    imported = {alias.name for node in lasting if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names}
    return imported.union(*map(bound, lasting))


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
        case ast.ImportFrom(module=module, names=names) if module != "dil_tutorial.lessons.exercises":
            return [alias.asname or alias.name for alias in names]
    return []


def breach(node: ast.AST) -> str | None:
    """The rule that one node of a syntax tree breaks, but for those about names' meaning."""
    for name in bound(node):
        if name.startswith("_") and name not in ("_", "__init__"):
            return f"defines {name}: names that begin with an underscore are Python's"
    match node:
        case ast.Import(names=names):
            return next(filter(None, (outside(alias.name) for alias in names)), None)
        case ast.ImportFrom(
            module="dil_tutorial.course.rules" | "dil_tutorial.lessons.exercises",
            names=[ast.alias(name="may_hand_in" | "expect", asname=None)],
        ):
            return None
        case ast.ImportFrom(module=module, names=names, level=level):
            if any(alias.name == "*" for alias in names):
                return "imports *: name what you need"
            return next(filter(None, (outside(f"{'.' * level}{module or ''}.{alias.name}") for alias in names)), None)
        case ast.Name(id=name) if name in REACHING or (name.startswith("_") and name != "_"):
            return f"uses {name}: it reaches outside the answer"
        case ast.Attribute(value=ast.Call(func=ast.Name(id="super")), attr="__init__"):
            return None
        case ast.Attribute(attr=name) if reaches(name):
            return f"uses .{name}: it reaches outside the answer"
        case ast.Attribute(attr=name, ctx=ast.Store() | ast.Del()) if name not in TENSORS_OWN:
            return f"sets {ast.unparse(node)}: objects get attributes in their __init__, modules and foreign objects none"
        case ast.MatchClass(kwd_attrs=names) if any(map(reaches, names)):
            return f"matches {', '.join(names)}: it reaches outside the answer"
        case ast.Global():
            return "says global: return what others are to see"
        case ast.Name(id="type"):
            return "uses type, which can make a class of any kind: ask isinstance(...)"
    return None


def reaches(name: str) -> bool:
    """Whether an attribute of this name reaches outside an answer."""
    if name == "eval":  # as an attribute a network's mode
        return False
    return name in OUTSIDE or name.startswith("_") or name.endswith("Meta")


def outside(path: str) -> str | None:
    """What is wrong with importing ``path``, None if nothing is.

    >>> outside("math.log"), outside("torch.hub")
    (None, 'imports torch.hub: it reaches outside the answer')
    """
    first, *rest = path.split(".")
    if first not in MODULES:
        return f"imports {first or path}: answers may import {', '.join(MODULES)}"
    return f"imports {path}: it reaches outside the answer" if any(map(reaches, rest)) else None


def may_hand_in(cells: Sequence[str]) -> None:
    """Say whether the cells of a fresh run, Jupyter's ``In``, keep the rules.

    >>> may_hand_in(["", "import torch", "def f(x): return eval(x)"])
    cell [2], line 1 uses eval: it reaches outside the answer
    Mend this, restart the kernel and run all cells.
    >>> may_hand_in(["", "import torch"])
    The rules are kept: you may hand in.
    """
    given = [code for code in cells if "from dil_tutorial.lessons.exercises import expect" in code]
    names = {"torch", "expect"}.union(*map(defined, given))
    own = {number: code for number, code in enumerate(cells) if code not in given and "may_hand_in(In)" not in code}
    broken = {number: why for number, code in own.items() if (why := refused(code, names))}
    for number, why in broken.items():
        print(f"cell [{number}], {why}")
    print("Mend this, restart the kernel and run all cells." if broken else "The rules are kept: you may hand in.")
