"""Queries over columns: terms joined by `and`, each a comparison of a column with a number or a string.

    loudness_lufs > -45 and cut == 0 and 0.1 <= motion < 2 and tag != "Speech"

Python's parser reads them, and nothing is evaluated: what is not such a comparison is refused.
"""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from avprep.errors import ArgumentError

Literal = int | float | str | bool

_MOST_CHARACTERS = 10_000
_COMPARE = {
    ast.Lt: ("<", pc.less),
    ast.LtE: ("<=", pc.less_equal),
    ast.Gt: (">", pc.greater),
    ast.GtE: (">=", pc.greater_equal),
    ast.Eq: ("==", pc.equal),
    ast.NotEq: ("!=", pc.not_equal),
}
_TURNED = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE}  # 3 < a is a > 3


@dataclass(frozen=True)
class Term:
    """column COMPARED TO value."""

    column: str
    comparison: type[ast.cmpop]
    value: Literal

    def __str__(self) -> str:
        return f"{self.column} {_COMPARE[self.comparison][0]} {self.value!r}"

    def require(self, type_of: pa.DataType) -> None:
        """Raises ArgumentError for a value that a column of this type cannot be compared with."""
        is_text = pa.types.is_string(type_of)
        if not (is_text or _is_number(type_of)):
            raise ArgumentError(f"query = {self}: {self.column} holds bits, which are not compared")
        if is_text != isinstance(self.value, str):
            kind = "text" if is_text else "a number"
            raise ArgumentError(f"query = {self}: {self.column} is {kind}, and {self.value!r} is not")

    def holds(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """bool, by row: whether it holds; null where the column is."""
        if pa.types.is_boolean(column.type):
            column = column.cast(pa.int64())
        if isinstance(self.value, str):
            value = pa.scalar(self.value)
        else:
            column, value = column.cast(pa.float64(), safe=False), pa.scalar(float(self.value))
        return _COMPARE[self.comparison][1](column, value)


def parse_query(query: str) -> tuple[Term, ...]:
    """The terms of a query, in order; none for an empty one.

    Raises:
        ArgumentError: it is no such query. The message names the part that is not.
    """
    if not isinstance(query, str):
        raise ArgumentError(f"query must be text, not {query!r}")
    if len(query) > _MOST_CHARACTERS:
        raise ArgumentError(f"query must have at most {_MOST_CHARACTERS:,} characters, not {len(query):,}")
    if not query.strip():
        return ()
    try:
        tree = ast.parse(query.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        why = error.msg if isinstance(error, SyntaxError) else error
        raise ArgumentError(f"query = {_short(query)}: it cannot be read: {why}") from error
    parts = tree.values if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And) else [tree]
    return tuple(term for part in parts for term in _terms(part, query))


def _terms(part: ast.expr, query: str) -> list[Term]:
    """The comparisons of a part; two of a chain: 0.1 <= motion < 2."""
    if not isinstance(part, ast.Compare):
        raise ArgumentError(
            f"query = {_text(part, query)}: a term must be a comparison such as luma > 0.1; terms are "
            f"joined by and"
        )
    sides = [part.left, *part.comparators]
    pairs = zip(sides, part.ops, sides[1:], strict=False)
    return [_term(left, op, right, query) for left, op, right in pairs]


def _term(left: ast.expr, op: ast.cmpop, right: ast.expr, query: str) -> Term:
    comparison = type(op)
    if comparison not in _COMPARE:
        signs = ", ".join(sign for sign, _ in _COMPARE.values())
        raise ArgumentError(f"query = {_short(query)}: comparisons are {signs}")
    if isinstance(right, ast.Name) and not isinstance(left, ast.Name):
        left, right, comparison = right, left, _TURNED.get(comparison, comparison)
    if not isinstance(left, ast.Name):
        raise ArgumentError(f"query = {_text(left, query)}: one side of a comparison must be a column's name")
    return Term(left.id, comparison, _literal(right, query))


def _literal(side: ast.expr, query: str) -> Literal:
    """A number, with a sign or without, or a string. Raises ArgumentError for anything else."""
    if isinstance(side, ast.UnaryOp) and isinstance(side.op, ast.USub | ast.UAdd):
        number = side.operand.value if isinstance(side.operand, ast.Constant) else None
        if isinstance(number, int | float) and _is_finite(number):
            return -number if isinstance(side.op, ast.USub) else number
    if isinstance(side, ast.Constant) and isinstance(side.value, str):
        return side.value
    if isinstance(side, ast.Constant) and isinstance(side.value, int | float) and _is_finite(side.value):
        return side.value
    raise ArgumentError(
        f"query = {_text(side, query)}: the other side of a comparison must be a number or a string in quotes"
    )


def _is_finite(value: int | float) -> bool:
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _is_number(type_of: pa.DataType) -> bool:
    return pa.types.is_integer(type_of) or pa.types.is_floating(type_of) or pa.types.is_boolean(type_of)


def _text(part: ast.expr, query: str) -> str:
    return _short(ast.get_source_segment(query.strip(), part) or query)


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}..."
