"""What an expression of whole numbers comes to, by two stacks (Dijkstra's shunting yard). Nothing is executed."""

from collections.abc import Callable, Sequence

BINDS = {"(": 0, "+": 1, "-": 1, "*": 2}
DOES: dict[str, Callable[[int, int], int]] = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


def value_of(parts: Sequence[int | str]) -> int | None:
    """Of numbers, `+ - *` and parentheses; None where they are no expression. Signs of a number have no place in one.

    Products come before sums, equals from left to right.
    """
    values, signs = list[int](), list[str]()

    def reduce(least: int) -> None:
        while signs and BINDS[signs[-1]] >= least:
            second, first = values.pop(), values.pop()
            values.append(DOES[signs.pop()](first, second))

    number_next = True
    for part in parts:
        if number_next != (isinstance(part, int) or part == "("):
            return None
        if isinstance(part, int):
            values.append(part)
            number_next = False
        elif part == "(":
            signs.append(part)
        elif part == ")":
            reduce(1)
            if not signs:
                return None
            signs.pop()
        else:
            reduce(BINDS[part])
            signs.append(part)
            number_next = True
    if number_next:
        return None
    reduce(1)
    return None if signs else values[0]
