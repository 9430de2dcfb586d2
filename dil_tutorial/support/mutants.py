"""Small changes to a program, made by cosmic-ray: tests that are worth something notice them."""

import ast
import difflib
from typing import Any

# One replacement an operator (all eleven of each would be mostly type errors), both neighbors of a
# number.
OPERATORS = [
    "NumberReplacer",
    "AddNot",
    "ReplaceAndWithOr",
    "ReplaceOrWithAnd",
    "ReplaceTrueWithFalse",
    "ReplaceFalseWithTrue",
    "ZeroIterationForLoop",
    "ReplaceBreakWithContinue",
    "ExceptionReplacer",
    "RemoveDecorator",
    *[
        f"ReplaceBinaryOperator_{a}"
        for a in (
            "Add_Sub",
            "Sub_Add",
            "Mul_Div",
            "Div_Mul",
            "Pow_Mul",
            "FloorDiv_Mul",
            "BitAnd_BitOr",
            "BitOr_BitAnd",
        )
    ],
    *[f"ReplaceUnaryOperator_{a}" for a in ("Delete_USub", "Delete_Not", "Delete_Invert")],
    *[
        f"ReplaceComparisonOperator_{a}"
        for a in (
            "Gt_GtE",
            "Gt_LtE",
            "Lt_LtE",
            "Lt_GtE",
            "GtE_Gt",
            "GtE_Lt",
            "LtE_Lt",
            "LtE_Gt",
            "Eq_NotEq",
            "NotEq_Eq",
            "Is_IsNot",
            "IsNot_Is",
        )
    ],
]


def executed(source: str) -> str:
    """The syntax tree without annotations and docstrings: what runs.

    >>> executed("def f(x: int) -> int:\\n    'A number.'\\n    return x") == executed(
    ...     "def f(x):\\n    return x"
    ... )
    True
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:] or [ast.Pass()]
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(0)
    return ast.dump(tree)


def mutants(source: str) -> list[dict[str, Any]]:
    """Every mutant that changes what runs: {"operator", "occurrence", "from", "to", "source"}; from
    and to are the line.
    """
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    nodes, records, seen = list(ast_nodes(get_ast(source))), [], {executed(source)}
    for name in OPERATORS:
        operator = get_operator(f"core/{name}")()
        for occurrence in range(
            sum(len(list(operator.mutation_positions(node))) for node in nodes)
        ):
            mutated = mutate_code(source, operator, occurrence)
            try:
                tree = executed(mutated)
            except SyntaxError:
                continue
            if tree in seen:
                continue
            seen.add(tree)
            diff = [
                line
                for line in difflib.ndiff(source.splitlines(), mutated.splitlines())
                if line[0] in "+-"
            ]
            change = [
                next((line[2:].strip() for line in diff if line[0] == sign), "(removed)")
                for sign in "-+"
            ]
            records.append(
                {
                    "operator": name,
                    "occurrence": occurrence,
                    "from": change[0],
                    "to": change[1],
                    "source": mutated,
                }
            )
    return records


def reason(place: str, mutant: dict[str, Any], known: list[dict[str, str]]) -> str | None:
    """Why no test can notice a mutant, if somebody has shown that; entries hold its place and parts
    of the two lines.

    >>> known = [{"module": "a.py", "from": "x + 1", "reason": "x is infinite"}]
    >>> (
    ...     reason("a.py", {"from": "y = x + 1", "to": "y = x - 1"}, known),
    ...     reason("b.py", {"from": "x + 1", "to": ""}, known),
    ... )
    ('x is infinite', None)
    """
    for entry in known:
        if (
            entry["module"] == place
            and entry["from"] in mutant["from"]
            and entry.get("to", "") in mutant["to"]
        ):
            return entry["reason"]
    return None
