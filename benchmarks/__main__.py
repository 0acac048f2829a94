"""`python -m benchmarks [WHAT …]`: measures and prints, and writes the results as JSON to --out.

`python -m benchmarks profile [PATH …]` shows where tokens, webhooks, the fold and usage queries spend their time.
"""

import argparse
import sys
from pathlib import Path

from benchmarks import fold, latency, machine, processes, profiling, scaling, start, tokens, usage, webhooks
from benchmarks.layers import LAYERS
from benchmarks.machine import Spread

WHAT = ("tokens", "webhooks", "fold", "latency", "usage", "start", "scaling")


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("what", nargs="*", metavar="WHAT", help=f"{', '.join(WHAT)} (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=5, help="of load a round and server (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path(".bench"), help="where results go (default: %(default)s)")
    parser.add_argument("--sessions", type=int, default=1_000_000, help="usage: in its history (default: %(default)s)")
    parser.add_argument(
        "--directory", type=Path, help="usage: keep its servers' files here, and use what it already holds"
    )
    arguments = parser.parse_args()
    to_profile = arguments.what[1:] or list(LAYERS) if arguments.what[:1] == ["profile"] else []
    if unknown := set(to_profile) - set(LAYERS):
        parser.error(f"no profile of {', '.join(sorted(unknown))}: there is {', '.join(LAYERS)}")
    missing = processes.missing_programs(("wrk", "py-spy") if to_profile else ("wrk", "node", "npm"))
    if missing:
        sys.stderr.write(f"install {', '.join(missing)} first (apt-get install wrk nodejs npm; pip install py-spy)\n")
        return 2
    machine.console.print(machine.describe())
    for path in to_profile:
        profiling.profile(path, arguments.seconds)
    if to_profile:
        return 0
    for what in arguments.what or WHAT:
        _run(what, arguments)
    return 0


def _run(what: str, arguments: argparse.Namespace) -> None:
    if what in ("latency", "start"):
        alone = latency.measure(arguments.rounds) if what == "latency" else start.measure(arguments.rounds)
        machine.show(what, ["", ""], [[name, str(spread)] for name, spread in alone.items()])
        machine.keep(arguments.out, what, {name: spread.values for name, spread in alone.items()})
        return
    if what == "usage":
        read = usage.measure(arguments.rounds, arguments.seconds, arguments.sessions, arguments.directory)
        machine.keep(arguments.out, what, {name: {k: v.values for k, v in ms.items()} for name, ms in read.items()})
        return
    if what == "scaling":
        for of, counted, units in (
            ("API processes", scaling.measure(arguments.rounds, arguments.seconds), scaling.UNITS),
            ("workers", scaling.measure_workers(arguments.rounds), scaling.WORKER_UNITS),
        ):
            columns = [of, *(f"{name}, {unit}" for name, unit in units.items())]
            machine.show(what, columns, [[name, *map(str, found.values())] for name, found in counted.items()])
            content = {name: {k: v.values for k, v in found.items()} for name, found in counted.items()}
            machine.keep(arguments.out, f"{what} {of}", content)
        return
    if what == "tokens":
        result = tokens.measure(arguments.rounds, arguments.seconds)
    elif what == "webhooks":
        result = webhooks.measure(arguments.rounds, arguments.seconds)
    else:
        result = fold.measure(arguments.rounds)
    _print(what, result)
    machine.keep(arguments.out, what, {name: {k: v.values for k, v in found.items()} for name, found in result.items()})


def _print(what: str, result: dict[str, dict[str, Spread]]) -> None:
    """Print the ratio of Relay's rate to each peer's. Both rates are of the same round."""
    ours = result["relay"]["per_second"].values
    rows = []
    for name, found in result.items():
        ratio = Spread(tuple(own / other for own, other in zip(ours, found["per_second"].values, strict=True)))
        others = [f"{key} {spread}" for key, spread in found.items() if key != "per_second"]
        rows.append([name, str(found["per_second"]), str(ratio) if name != "relay" else "", ", ".join(others)])
    machine.show(what, ["", "a second", "relay is … times this", ""], rows)


if __name__ == "__main__":
    sys.exit(main())
