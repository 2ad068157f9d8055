"""The HTML report: one page that needs nothing else, made from the JSON report.

It holds the verdict table, accuracy against size and against time with the Pareto fronts, the drop per class as a heat
map, reference against now, and what was timed. No script and no request: the page forbids both to itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptq.report.element import Child, Element, element, serialize
from ptq.report.heatmap import heatmap
from ptq.report.scatter import Point, scatter
from ptq.report.style import STYLE
from ptq.report.timings import by_result, timings
from ptq.result import JUDGED, PASS
from ptq.store import write_text

Row = Mapping[str, Any]
Times = Mapping[str, Mapping[int, Row]]


def page(content: Mapping[str, Any]) -> str:
    """The page of a report, as `ptq.report.json.read` gives it.

    A result may have a ``reference`` (``value, worse, line``), the report a list ``latency``, one object a race.
    """
    results: Sequence[Row] = content["results"]
    judged = [each for each in results if each["verdict"] in JUDGED]
    times, raced = by_result(content), timings(content)
    workloads = sorted({each["workload"] for each in judged})
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element(
            "meta", content="default-src 'none'; style-src 'unsafe-inline'", **{"http_equiv": "Content-Security-Policy"}
        ),
        element("title", "ptq report"),
        element("style", STYLE),
    )
    sections = [
        each for name in workloads for each in _workload(name, [r for r in judged if r["workload"] == name], times)
    ]
    body = element(
        "body",
        element("h1", "Post-training quantization report"),
        _counts(results),
        *_reasons([*judged, *raced]),
        *sections,
        *_raced(raced),
        *_not_run([each for each in results if each["verdict"] not in JUDGED]),
        *_environment(content.get("environment") or {}),
    )
    return serialize(element("html", head, body, lang="en"))


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write the page, whole or not at all."""
    write_text(path, page(content))


def _counts(results: Sequence[Row]) -> Element:
    counts = Counter(str(each["verdict"]) for each in results)
    shown = [element("span", f"{count} {_words(name)}", class_=_class(name)) for name, count in sorted(counts.items())]
    return element("p", *shown, class_="counts") if shown else element("p", "No case.")


def _workload(name: str, results: list[Row], times: Times) -> list[Element]:
    ranked = sorted(results, key=lambda each: (each["dtype"] != "fp32", -each["value"], each["id"]))
    labels = [_label(each) for each in ranked]
    sections = [element("h2", name), _verdicts(ranked, times)]
    if len(figures := _figures(ranked, times)):
        sections += [element("h3", "What accuracy costs"), figures]
    quantized = [(label, each) for label, each in zip(labels, ranked, strict=True) if each["dtype"] != "fp32"]
    if (classes := heatmap([each for _, each in quantized], [label for label, _ in quantized])) is not None:
        sections += [element("h3", "Drop per class"), classes]
    if (then := _references(ranked)) is not None:
        sections += [element("h3", "Reference against now"), then]
    return sections


def _verdicts(results: Sequence[Row], times: Times) -> Element:
    batches = _batches(results, times)
    metric = results[0]["metric"]
    head = element(
        "tr",
        element("th", "case"),
        element("th", metric, element("small", "FP32")),
        element("th", "drop, pp", element("small", "interval")),
        element("th", "n"),
        element("th", "agreement", class_="wide"),
        element("th", "SQNR, dB", class_="wide"),
        element("th", "in integer", class_="wide"),
        element("th", "size, kB", element("small", "FP32"), class_="wide"),
        *[element("th", "speedup", element("small", f"batch {each}"), class_="wide") for each in batches],
        element("th", "verdict"),
    )
    body = [_verdict_row(each, {batch: times[each["id"]].get(batch) for batch in batches}) for each in results]
    return element("div", element("table", element("thead", head), element("tbody", *body)), class_="scroll")


def _verdict_row(result: Row, times: Mapping[int, Row | None]) -> Element:
    interval = result.get("interval")
    between = "" if not interval else f"{interval[0]:+.2f} to {interval[1]:+.2f}"
    share = result.get("integer_share")
    paper = " on paper only" if share == 0 and result["dtype"] != "fp32" else ""
    return element(
        "tr",
        element("th", _label(result), scope="row"),
        element("td", _number(result["value"], ".4f"), element("small", _number(result.get("fp32_value"), ".4f"))),
        element("td", _number(result.get("drop"), "+.2f"), element("small", between)),
        element("td", str(result["n"])),
        element("td", _number(result.get("agreement"), ".4f"), class_="wide"),
        element("td", _number(result.get("sqnr_db"), ".1f"), class_="wide"),
        element("td", _number(share, ".0%"), element("small", paper) if paper else None, class_="wide"),
        element(
            "td",
            _kilobytes(result.get("size_bytes")),
            element("small", _kilobytes(result.get("fp32_size_bytes"))),
            class_="wide",
        ),
        *[element("td", *_speedup(each), class_="wide") for each in times.values()],
        element("td", _words(result["verdict"]), class_=f"verdict {_class(result['verdict'])}"),
    )


def _speedup(time: Row | None) -> tuple[Child, ...]:
    if time is None:
        return ("",)
    return f"{1 / time['ratio']:.2f}", element("small", f"{1 / time['high']:.2f} to {1 / time['low']:.2f}")


def _figures(results: Sequence[Row], times: Times) -> Element:
    metric = str(results[0]["metric"])
    made = []
    sized = [each for each in results if each.get("size_bytes")]
    if len(sized) > 1:
        points = [Point(each["size_bytes"] / 1000, each["value"], each["dtype"], _label(each)) for each in sized]
        made.append(scatter(points, "size, kB", metric))
    for batch in _batches(results, times):
        timed = [(result, times[result["id"]][batch]) for result in results if batch in times[result["id"]]]
        points = [
            Point(each["ratio"], result["value"], result["dtype"], _label(result), result.get("size_bytes"))
            for result, each in timed
        ]
        if not any(result["dtype"] == "fp32" for result, _ in timed):
            floats = [each for each in results if each["dtype"] == "fp32"]
            points += [Point(1.0, each["value"], "fp32", _label(each), each.get("size_bytes")) for each in floats]
        made.append(scatter(points, f"time / FP32 time, batch {batch}", metric))
    return element("div", *made, class_="figures")


def _batches(results: Sequence[Row], times: Times) -> list[int]:
    return sorted({batch for each in results for batch in times[each["id"]]})


def _raced(raced: Sequence[Row]) -> list[Element]:
    if not raced:
        return []
    head = element(
        "tr",
        element("th", "case"),
        element("th", "batch"),
        element("th", "against"),
        element("th", "time ratio", element("small", "interval")),
        element("th", "ms", element("small", "against"), class_="wide"),
        element("th", "executed", class_="wide"),
        element("th", "verdict"),
    )
    body = [
        element(
            "tr",
            element("th", each["id"], scope="row"),
            element("td", str(each["batch"])),
            element("td", each["against"]),
            element("td", f"{each['ratio']:.3f}", element("small", f"{each['low']:.3f} to {each['high']:.3f}")),
            element("td", f"{each['other_ms']:.3g}", element("small", f"{each['reference_ms']:.3g}"), class_="wide"),
            element("td", each.get("executed"), class_="wide"),
            element("td", each["verdict"], class_=f"verdict {_class(each['verdict'])}"),
        )
        for each in raced
    ]
    table = element("table", element("thead", head), element("tbody", *body))
    return [element("h2", "Time against another"), element("div", table, class_="scroll")]


def _references(results: Sequence[Row]) -> Element | None:
    known = [each for each in results if each.get("reference")]
    if not known:
        return None
    head = element("tr", *[element("th", each) for each in ("case", "reference", "now", "change, pp", "")])
    body = []
    for each in known:
        then = each["reference"]
        change = 100 * (each["value"] - then["value"])
        state = element("td", "worse", class_="verdict fail") if then["worse"] else element("td", "")
        cells = [_number(then["value"], ".4f"), _number(each["value"], ".4f"), f"{change:+.2f}"]
        body.append(
            element("tr", element("th", _label(each), scope="row"), *[element("td", cell) for cell in cells], state)
        )
    return element("div", element("table", element("thead", head), element("tbody", *body)), class_="scroll")


def _reasons(judged: Sequence[Row]) -> list[Element]:
    told = [each["reason"] for each in judged if each["verdict"] != PASS and each.get("reason")]
    told += [each["reference"]["line"] for each in judged if (each.get("reference") or {}).get("worse")]
    if not told:
        return []
    return [element("h2", "Why not pass"), element("ul", *[element("li", each) for each in told], class_="reasons")]


def _not_run(results: Sequence[Row]) -> list[Element]:
    if not results:
        return []
    counts = Counter((each["workload"], each["backend"], each["verdict"], each["reason"]) for each in results)
    lines = [
        element(
            "li", f"{workload}, {backend}: {count} {_words(verdict)}: {reason.removeprefix(_words(verdict) + ': ')}"
        )
        for (workload, backend, verdict, reason), count in sorted(counts.items())
    ]
    return [element("h2", "Not run"), element("ul", *lines, class_="reasons")]


def _environment(environment: Mapping[str, Any]) -> list[Element]:
    rows = []
    for key, value in environment.items():
        if isinstance(value, Mapping):
            text = ", ".join(f"{name} {each}" for name, each in value.items())
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        rows.append(element("tr", element("th", key, scope="row"), element("td", text)))
    return [element("h2", "Environment"), element("table", element("tbody", *rows), class_="facts")] if rows else []


def _label(result: Row) -> str:
    """The case without its workload, which the section names."""
    return str(result["id"]).removeprefix(f"{result['workload']}-")


def _kilobytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1000:,.0f}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _words(verdict: str) -> str:
    return verdict.replace("_", " ")


def _class(verdict: str) -> str:
    return verdict if verdict in JUDGED else "other"
