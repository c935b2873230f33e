"""What a step computes, as HTML: its equation with the numbers of the run, and its source lines with their values.

    reading = reading_of(step, calls, place)        # while the run goes on: numbers, no tensors
    equation_html(reading), lines_html(reading)     # whenever it is looked at

Everything is escaped: sources and names may be a model's own.
"""

import builtins
import io
import keyword
import tokenize
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from typing import Any

from .formulas import Formula, marked_up
from .live_values import Call, Equation, Place, Value, read

NONE = Value(None)
LONG = 20  # lines of a call above which they are shown on request


@dataclass(frozen=True)
class Reading:
    """The numbers of a step: x_t, the predicted x_0 and eps, the sample after it, and the calls that took it."""

    x_t: Value = NONE
    x0: Value = NONE
    eps: Value = NONE
    after: Value = NONE
    calls: tuple[Call, ...] = ()

    @property
    def equations(self) -> list[Equation]:
        """Of the calls that have one, in the order in which they ended; the last gives the sample after the step."""
        return [call.equation for call in sorted(self.calls, key=lambda call: call.end) if call.equation]


def reading_of(step: Any, calls: tuple[Call, ...], place: Place) -> Reading:
    """What is kept of a step of a run."""
    parts = (step.x_t, step.pred_original_sample, step.eps, step.prev_sample)
    return Reading(*(read(part, place) or NONE for part in parts), calls)


def explained(
    formula: Formula,
    timestep: float | None = None,
    known: tuple[float, float] | None = None,
    reading: Reading = Reading(),
    where: str = "",
) -> str:
    """What a step computes, in words and as an equation, and the numbers of one of them; `where` they are from."""
    here = "" if timestep is None else f"Here t = {timestep:.4g}"
    if known:
        here += marked_up(f": x_t = {_of_levels(known[0])} x̂_0 + {_of_levels(known[1])} ε̂")
    return (
        f'<p class="formula">{marked_up(escape(formula.text))}</p><p>{escape(formula.sentence)}</p>'
        f"<p>{here or '&nbsp;'}</p>{equation_html(reading, where or where_of(reading.x_t.shape))}"
    )


def equation_html(reading: Reading, where: str) -> str:
    """Each equation of the step with its factors, then with the numbers at the place, which `where` names."""
    if not reading.equations:
        return ""
    lines = "".join(f'<p class="numbers">{_with_numbers(equation)}</p>' for equation in reading.equations)
    known = {"x_t": reading.x_t, "x̂_0": reading.x0, "ε̂": reading.eps}
    parts = ", ".join(f"{marked_up(name)} = {_at(value.at)}" for name, value in known.items() if value.at)
    return f'{lines}<p class="where">{escape(where)}: {parts}</p>'


def lines_html(reading: Reading, where: str) -> str:
    """The source lines of the step's calls, each with what it assigned."""
    if not reading.calls:
        return ""
    shape = reading.x_t.shape
    told = f"{escape(where)}, and mean ± standard deviation of all {_shape(shape)}." if shape else ""
    return f'<p class="where">{told}</p>' + "".join(_call_html(call, shape) for call in reading.calls)


def where_of(shape: tuple[int, ...]) -> str:
    """In words, the place of `live_values.centre` in samples (N, C, H, W)."""
    if len(shape) != 4:
        return "In the first sample"
    channel = "" if shape[1] == 1 else f", channel 1 of {shape[1]}"
    return f"At row {shape[2] // 2 + 1}, column {shape[3] // 2 + 1} of the first image{channel}"


# ------------------------------------------------------------------------------------------------------------ numbers


def short(number: float) -> str:
    """Three digits, with a minus sign that is one."""
    return f"{round(number, 6) + 0.0:.3g}".replace("-", "−")


def _of_levels(number: float) -> str:
    return f"{round(number, 4) + 0.0:.3g}"


def _at(numbers: tuple[float, ...]) -> str:
    return short(numbers[0]) if len(numbers) == 1 else f"({', '.join(map(short, numbers))})"


def _with_numbers(equation: Equation) -> str:
    symbols, numbers = "", ""
    for factor, symbol, at in equation.terms:
        sign = "" if not symbols and factor > 0 else "−" if factor < 0 else "+"
        lead = f" {sign} " if symbols else sign
        size = short(abs(factor))
        symbols += f"{lead}{'' if size == '1' else f'{size} '}{marked_up(escape(symbol))}"
        value = f"({_at(at)})" if len(at) == 1 and at[0] < 0 else _at(at)
        numbers += f"{lead}{'' if size == '1' else f'{size} · '}{value}"
    result = marked_up(escape(equation.symbol))
    return f"{result} = {symbols or '0'}<br>= {numbers or '0'} = <b>{_at(equation.result)}</b>"


# --------------------------------------------------------------------------------------------------------- the source


def _call_html(call: Call, shape: tuple[int, ...]) -> str:
    often = f", the last of {call.count} calls" if call.count > 1 else ""
    rows, before = [], None
    for statement, values in call.rows:
        gap = before is not None and statement.first != before + 1
        shown = " ".join(_value_html(name, value, shape) for name, value in values)
        rows.append(
            f'<div class="line{" gap" if gap else ""}"><i>{statement.first}</i><code>{highlighted(statement.text)}'
            f"</code><p>{shown}</p></div>"
        )
        before = statement.last
    title, lines = f"<code>{escape(call.source.title)}</code>{often}", "".join(rows)
    if len(rows) <= LONG:
        return f'<p class="source">{title}</p>{lines}'
    return f'<details><summary class="source">{title}, {len(rows)} lines</summary>{lines}</details>'


def _value_html(name: str, value: Value, shape: tuple[int, ...]) -> str:
    parts = [f"<b>{_at(value.at)}</b>"] if value.at else []
    if value.shape:
        size = "" if value.shape == shape else f", {_shape(value.shape)}"
        parts.append(f"<small>{short(value.mean)} ± {short(value.std)}{size}</small>")
    return f"<span>{escape(name)} = {' '.join(parts)}</span>"


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


@lru_cache(maxsize=1024)
def highlighted(text: str) -> str:
    """Python as HTML: keywords, numbers, strings and comments wear a class."""
    lines, out, at = text.splitlines(keepends=True), [], (1, 0)
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            out += [escape(_between(lines, at, token.start)), _token_html(token)]
            at = max(at, token.end)
    except (tokenize.TokenError, IndentationError):  # the first line of a loop, say, is no program
        pass
    return "".join(out) + escape(_between(lines, at, (len(lines), len(lines[-1]) if lines else 0)))


def _token_html(token: tokenize.TokenInfo) -> str:
    kinds = {tokenize.NUMBER: "n", tokenize.STRING: "s", tokenize.COMMENT: "c"}
    kind = kinds.get(token.type, "")
    if token.type == tokenize.NAME:
        kind = "k" if keyword.iskeyword(token.string) else "f" if hasattr(builtins, token.string) else ""
    said = escape(token.string)
    return f'<span class="{kind}">{said}</span>' if kind else said


def _between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    """What stands between two places, (line from 1, column): blanks and line ends."""
    if start[0] == end[0]:
        return lines[start[0] - 1][start[1] : end[1]] if start[0] <= len(lines) else ""
    if start[0] > len(lines):
        return ""
    middle = "".join(lines[start[0] : end[0] - 1])
    last = lines[end[0] - 1][: end[1]] if end[0] <= len(lines) else ""
    return lines[start[0] - 1][start[1] :] + middle + last
