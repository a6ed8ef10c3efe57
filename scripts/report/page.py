"""Write reports/index.html, the tables and the figures from asv's results and the outcome records.

python -m scripts.report [--machine NAME] [--commit HASH] [--fingerprint F]: the default is the run measured last.
--against MACHINE|COMMIT|FILE shows another run beside it, which may be the results.parquet of another report; --merge
DIR... takes the results of further folders like .asv in; --watch writes the report again whenever results change.
The page is a single file that needs no network.
"""

import argparse
import csv
import io
import os
import sys
import time
from pathlib import Path

import pandas as pd

from benchmarks.harness.measurement import UNKNOWN
from scripts.claims import document
from scripts.profiling import document as profiling
from scripts.report import comparison, fingerprints, metrics, results
from scripts.report.rendering import script, style, template
from scripts.report.results import Run
from scripts.report.section import Context, Section
from scripts.report.sections import (
    activations,
    against,
    answers,
    claims,
    compiling,
    everything,
    examples,
    gpu,
    history,
    machine,
    memory,
    missing,
    profiles,
    semantics,
    steps,
    threads,
    throughput,
    winners,
)
from scripts.report.sections.machine import runs
from scripts.setup.pins import ROOT

# In the order of the page.
SECTIONS = (
    answers, against, winners, throughput, activations, gpu, memory, steps, profiles, compiling, threads, semantics,
    claims, history, everything, missing, machine, examples,
)  # fmt: skip
ASV_SITE = ROOT / ".asv" / "html" / "index.html"
# Spreadsheets interpret text that starts with one of these as a formula.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
# Time between two looks at the files of results.
WATCH_S = 2.0
# A larger file is no comparison of ours.
LARGEST_BYTES = 64 * 2**20


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    if options.watch:
        return _watch(options)
    try:
        loaded = _loaded(options)
        if options.list:
            print(runs(loaded.table).to_string(index=False))
            return 0
        _write(options, loaded)
    except (results.NoResults, LookupError) as error:
        print(f"report: {error.args[0]}", file=sys.stderr)
        return 1
    return 0


def _watch(options: argparse.Namespace) -> int:
    """Write the report whenever results or records change, until it is interrupted."""
    written: dict[Path, int] | None = None
    try:
        while True:
            folders = (options.results, options.outcomes)
            changed = {path: path.stat().st_mtime_ns for folder in folders for path in sorted(folder.glob("*/*.json*"))}
            if changed != written:
                written = changed
                try:
                    _write(options, _loaded(options))
                    print(f"report: {time.strftime('%H:%M:%S')}, {options.out / 'index.html'}", file=sys.stderr)
                except (results.NoResults, LookupError) as error:
                    print(f"report: {error.args[0]}", file=sys.stderr)
            time.sleep(WATCH_S)
    except KeyboardInterrupt:
        return 0


def _loaded(options: argparse.Namespace) -> results.Results:
    """The results of all folders that the options name. Raises NoResults."""
    loaded = results.load(options.results, options.outcomes, unsaved=options.watch)
    if options.merge:
        others = {str(folder): results.load(folder / "results", folder / "outcomes") for folder in options.merge}
        loaded = results.merged({str(options.results): loaded, **others})
    if loaded.table.empty:
        looked = "; ".join(loaded.problems) or "asv writes its results when a run ends, and none has ended"
        raise results.NoResults(f"no readable results: {looked}")
    return loaded


def _write(options: argparse.Namespace, loaded: results.Results) -> None:
    """Write the report. Raises NoResults and LookupError."""
    run = choose(loaded.table, options.machine, options.commit, options.fingerprint)
    against, loaded = _against(options.against, loaded, run) if options.against else (None, loaded)
    for problem in loaded.problems:
        print(f"report: skipped {problem}", file=sys.stderr)
    same_name = fingerprints.machines_named(loaded, run.machine)
    if len(same_name) > 1:
        print(f"report: {len(same_name)} different machines share the name {run.machine!r}", file=sys.stderr)
    options.out.mkdir(parents=True, exist_ok=True)
    claimed, worked = (_document(options.out / f"{kind}.json") for kind in (document.CLAIMS, document.EXAMPLES))
    folder = options.out / profiling.FOLDER
    context = Context(
        loaded, run, against, _comparisons(options.out), _asv_site(options), claimed, worked,
        _profiles(folder, profiling.Profile),
        _profiles(folder / profiling.CALLS_FOLDER, profiling.CallProfile),
    )  # fmt: skip
    for name, content in build(context).items():
        (options.out / name).write_bytes(content)


def _asv_site(options: argparse.Namespace) -> str:
    """The link to asv's own site; empty without one."""
    if options.asv_site is not None:
        return options.asv_site
    return os.path.relpath(ASV_SITE, options.out) if ASV_SITE.exists() else ""


def _against(name: str, loaded: results.Results, run: Run) -> tuple[Run, results.Results]:
    """The run that a file, machine or commit names, and the results with it. Raises NoResults and LookupError."""
    if Path(name).is_file():
        other = results.from_parquet(Path(name))
        return choose(other.table), results.merged({"results": loaded, name: other})
    others = loaded.table[~run.mask(loaded.table)]
    if name in set(others["machine"]):
        return choose(others, machine=name), loaded
    same = others[(others["machine"] == run.machine) & (others["fingerprint"] == run.fingerprint)]
    return choose(same if same["commit"].str.startswith(name).any() else others, commit=name), loaded


def choose(
    table: pd.DataFrame, machine: str | None = None, commit: str | None = None, fingerprint: str | None = None
) -> Run:
    """Return the run measured last, among those of a machine, commit (or its prefix) and fingerprint if given.

    Of several environments, the one with most rows; of several machines with one name, the one with the newest number.

    Raises LookupError, which lists the machines and commits that have results.
    """
    rows = table
    for column, requested in (("machine", machine), ("commit", commit), ("fingerprint", fingerprint)):
        if requested:
            rows = rows[rows[column].str.startswith(requested) if column == "commit" else rows[column] == requested]
    if rows.empty:
        listed = runs(table).to_string(index=False)
        request = f"machine {machine!r}, commit {commit!r}, fingerprint {fingerprint!r}"
        raise LookupError(f"no results for {request}; there are:\n{listed}")
    newest = rows.sort_values("measured", na_position="first").iloc[-1]
    same = rows[(rows["machine"] == newest["machine"]) & (rows["commit"] == newest["commit"])]
    env = same["env"].mode()[0]
    numbers = same[(same["env"] == env) & same["value"].notna()].sort_values("measured")
    newest_fingerprint = UNKNOWN if numbers.empty else numbers["fingerprint"].iloc[-1]
    return Run(newest["machine"], newest_fingerprint, newest["commit"], env)


def build(context: Context) -> dict[str, bytes]:
    """Return the files of the report by name: the page, the tidy table, and the figures."""
    sections = [section for module in SECTIONS if (section := module.section(context))]
    table = context.tidy[[*results.COLUMNS, *results.STEP_COLUMNS, *metrics.JOINED]]
    parquet = io.BytesIO()
    table.to_parquet(parquet, index=False)
    figures = [figure for section in sections for figure in section.figures]
    texts = {
        "index.html": _page(context, sections),
        "results.csv": _quoted(table),
        **{f"{figure.name}.svg": figure.file for figure in figures},
    }
    return {
        # Names and reasons are foreign text and may be invalid Unicode.
        **{name: text.encode(errors="replace") for name, text in texts.items()},
        "results.parquet": parquet.getvalue(),
        **{f"{figure.name}.png": figure.png for figure in figures},
    }


def _page(context: Context, sections: list[Section]) -> str:
    table, run = context.table, context.run
    same_name = fingerprints.machines_named(context.loaded, run.machine)
    return template("page.html.j2").render(
        run=run,
        date=table["date"].max(),
        facts=context.facts,
        machine=context.loaded.machines.get(run.machine, {}),
        counts=table["status"].value_counts().to_dict(),
        impossible=int(context.tidy.loc[run.mask(context.tidy), "impossible"].sum()),
        same_name=same_name if len(same_name) > 1 else [],
        differences=fingerprints.differences(same_name),
        sections=sections,
        asv_site=context.asv_site,
        **style(),
        **script(),
    )


def _comparisons(folder: Path) -> list[tuple[str, comparison.Result]]:
    """The comparisons in a folder, by name, that can be read."""
    found = []
    for path in sorted(folder.glob("comparison*.json")):
        try:
            if path.stat().st_size <= LARGEST_BYTES:
                found.append((path.stem, comparison.from_json(path.read_bytes())))
        except (OSError, ValueError) as error:
            print(f"report: skipped {path}: {error}", file=sys.stderr)
    return found


def _profiles(folder: Path, kind: type[document.Kind]) -> list[document.Kind]:
    """The profiles of steps or of calls in a folder that can be read."""
    found, problems = profiling.of_folder(folder, kind)
    for problem in problems:
        print(f"report: skipped {document.printable(problem)}", file=sys.stderr)
    return found


def _document(path: Path) -> document.Document | None:
    """The claims or examples in a file; None where there is no such file, or none that can be read."""
    try:
        return document.read(path)
    except (OSError, ValueError) as error:
        print(f"report: skipped {path}: {document.printable(str(error))}", file=sys.stderr)
        return None


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scripts.report", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--machine", help="asv's name of the machine (default: the one measured last)")
    parser.add_argument("--commit", help="a commit, or its first characters (default: the one measured last)")
    parser.add_argument(
        "--fingerprint", help="which of several machines with one name (default: the one measured last)"
    )
    parser.add_argument("--against", metavar="RUN", help="show this machine, commit or results.parquet beside it")
    parser.add_argument("--merge", nargs="+", type=Path, default=[], metavar="DIR", help="further folders like .asv")
    parser.add_argument("--watch", action="store_true", help="write it again whenever results change, until Ctrl-C")
    parser.add_argument("--list", action="store_true", help="list machines and commits that have results, and stop")
    parser.add_argument(
        "--results", type=Path, default=ROOT / ".asv" / "results", help="asv's results (default: %(default)s)"
    )
    parser.add_argument(
        "--outcomes", type=Path, default=ROOT / ".asv" / "outcomes", help="the outcome records (default: %(default)s)"
    )
    parser.add_argument(
        "--asv-site", metavar="LINK", help="link to asv's own site (default: to .asv/html, if it is there)"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "reports", help="where to write (default: %(default)s)")
    return parser.parse_args(arguments)


def _quoted(table: pd.DataFrame) -> str:
    """A table as CSV, with text that looks like a formula escaped by an apostrophe."""
    table = table.copy()
    for column in table.select_dtypes(include=["object", "string"]):
        table[column] = [f"'{v}" if isinstance(v, str) and v.startswith(FORMULA_STARTS) else v for v in table[column]]
    # Quoting keeps a line break in a text from starting a row.
    return table.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC)


if __name__ == "__main__":
    sys.exit(main())
