"""Builds the peers that can be built, runs the same work on all of them in turns, prints ratios.

Each peer is a process that waits for its turn; between turns it is stopped, so that one alone uses the
machine. See README.md.
"""

import argparse
import json
import math
import os
import platform
import queue
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or HERE / "target")
DATA = TARGET / "data"
# Cargo feature (none: no build), program, its first argument.
PEERS = {
    "modalign": ("modalign", "peer-modalign", "serve"),
    "torch": (None, None, "serve"),
    "burn-wgpu": ("burn-wgpu", "peer-burn", "wgpu"),
    "burn-wgpu-tuned": ("burn-tuned", "peer-burn", "wgpu"),
    "burn-cpu": ("burn-cpu", "peer-burn", "cpu"),
    "candle": ("candle", "peer-candle", "serve"),
}
# Only on request: its build takes as long as all others, and its tuning runs on the adapter.
ON_REQUEST = {"burn-wgpu-tuned"}
# Names as peers know them, and what tables call them.
ITEMS = {
    "matmul/1024x1024x1024": "product, 1024 x 1024 x 1024",
    "matmul/1600x768x768": "product, 1600 x 768 x 768",
    "matmul/32x768x3072": "product, 32 x 768 x 3072",
    "lstm": "LSTM step, 32 x 50 x 74 -> 32",
    "encoder/384": "encoder layer step, d = 384",
    "encoder/768": "encoder layer step, d = 768",
    "forward/384": "encoder layer forward, d = 384",
    "forward/768": "encoder layer forward, d = 768",
    "adam": "Adam, 22 million parameters",
    "selfmm": "whole Self-MM step, full lengths",
    "selfmm-lengths": "whole Self-MM step, half to full lengths",
    "epoch": "epoch of the demo",
    "first/lstm": "fresh process to first loss, LSTM",
    "first/selfmm": "fresh process to first loss, Self-MM",
}
# A repeat lasts at least so long, by doing several steps.
REPEAT = 0.3
TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class Gone(Exception):
    """The peer did not answer in time, or ended."""


class Process:
    """A peer's process. It runs only while it is asked something."""

    def __init__(self, command, limit):
        self.begun = time.perf_counter()
        self.child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.lines, self.noise = queue.Queue(), []
        threading.Thread(target=self.pump, daemon=True).start()
        threading.Thread(target=self.listen, daemon=True).start()
        self.hello = self.answer(limit)
        self.rest()

    def pump(self):
        for line in self.child.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def listen(self):
        for line in self.child.stderr:
            self.noise = (self.noise + [line.rstrip()])[-20:]

    def answer(self, limit):
        until = time.perf_counter() + limit
        while True:
            try:
                line = self.lines.get(timeout=max(until - time.perf_counter(), 0.01))
            except queue.Empty:
                self.end()
                raise Gone(f"more than {limit:.0f} s") from None
            if line is None:
                self.end()
                said = self.noise[-1] if self.noise else ""
                raise Gone(f"ended with {self.child.returncode}: {said}")
            # Some libraries print on their own.
            if line.startswith("{"):
                return json.loads(line)

    def cpu(self):
        """CPU seconds so far, of all threads."""
        try:
            fields = Path(f"/proc/{self.child.pid}/stat").read_text().rsplit(")", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / TICK
        except OSError:
            return math.nan

    def ask(self, item, steps, limit):
        self.wake()
        before = self.cpu()
        try:
            self.child.stdin.write(f"time {item} {steps}\n")
            self.child.stdin.flush()
        except OSError as error:
            self.end()
            raise Gone(f"ended: {error}") from None
        reply = self.answer(limit)
        reply["cpu"] = self.cpu() - before
        self.rest()
        if "error" in reply and self.noise:
            reply["error"] += f" ({self.noise[-1]})"
        return reply

    def rest(self):
        if hasattr(signal, "SIGSTOP"):
            self.child.send_signal(signal.SIGSTOP)

    def wake(self):
        if hasattr(signal, "SIGCONT"):
            self.child.send_signal(signal.SIGCONT)

    def end(self):
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()


class Peer:
    def __init__(self, name, command, limits):
        self.name, self.command, self.limits = name, command, limits
        self.process, self.hello = None, {}

    def start(self):
        self.process = Process(self.command, self.limits["first"])
        self.hello = self.process.hello

    def ask(self, item, steps, limit):
        if self.process is None or self.process.child.poll() is not None:
            self.start()
        return self.process.ask(item, steps, limit)

    def stop(self):
        if self.process:
            self.process.end()
        self.process = None


def say(text):
    print(text, file=sys.stderr, flush=True)


def build(features, binary, again):
    """The program, or None where there is none; without `again`, the one that was built before."""
    program = TARGET / f"{binary}-{features}"
    if not again:
        return program if program.exists() else None
    # A folder for each library; burn's settings share what they have in common.
    target = TARGET / features.partition("-")[0]
    command = ["cargo", "build", "--release", "--locked", "--features", features, "--bin", binary]
    say(f"peers: building {binary} with feature {features}")
    try:
        result = subprocess.run(command, cwd=HERE, env={**os.environ, "CARGO_TARGET_DIR": str(target)})
    except OSError as error:
        say(f"peers: {error}")
        return None
    if result.returncode != 0:
        return None
    shutil.copy2(target / "release" / binary, program)
    return program


def python_with_torch():
    for python in filter(None, [os.environ.get("PEERS_PYTHON"), sys.executable]):
        probe = subprocess.run([python, "-c", "import torch, numpy, safetensors"], capture_output=True)
        if probe.returncode == 0:
            return python
    return None


def commands(wanted, again):
    """A command for each peer that is there."""
    made, programs = {}, {}
    for name in wanted:
        features, binary, argument = PEERS[name]
        if features is None:
            python = python_with_torch()
            if python is None:
                say(f"peers: {name} is left out: no torch, numpy and safetensors for {sys.executable} "
                    "(name another Python in PEERS_PYTHON)")  # fmt: skip
                continue
            made[name] = [python, str(HERE / "torch_peer.py"), argument, str(DATA)]
            continue
        # The program with the wgpu backend has the other one, too.
        if features == "burn-cpu" and programs.get("burn-wgpu"):
            features = "burn-wgpu"
        if features not in programs:
            programs[features] = build(features, binary, again)
        if programs[features] is None:
            say(f"peers: {name} is left out: it {'did' if again else 'was'} not {'build' if again else 'built'}")
            continue
        made[name] = [str(programs[features]), argument, str(DATA)]
    return made


def warm(peer, item, limits):
    """The first two steps: what they cost and the losses that they gave."""
    try:
        first = peer.ask(item, 1, limits["first"])
        if "seconds" not in first:
            return first
        second = peer.ask(item, 1, limits["repeat"])
        if "seconds" not in second:
            return second
    except Gone as gone:
        peer.stop()
        return {"over": str(gone)}
    return {
        "first": first["open"] + first["seconds"],
        "once": second["seconds"],
        "values": first["values"] + second["values"],
    }


def measure(peers, item, rounds, limits):
    """Medians of interleaved repeats: one entry a peer."""
    found = {}
    for peer in peers:
        found[peer.name] = warm(peer, item, limits)
        say(f"  {item:<22} {peer.name:<16} {brief(found[peer.name])}")
    live = [p for p in peers if "once" in found[p.name]]
    for entry in (found[p.name] for p in live):
        entry["steps"] = max(1, min(200, math.ceil(REPEAT / max(entry["once"], 1e-6))))
        # Slow ones take fewer turns: at least three up to 15 s, two beyond.
        slow = entry["once"]
        entry["rounds"] = rounds if slow < 2 else min(rounds, 5 if slow < 5 else 3 if slow < 15 else 2)
        entry["ms"], entry["cpu_ms"] = [], []
    for turn in range(rounds):
        for peer in live:
            entry = found[peer.name]
            if turn >= entry["rounds"] or "over" in entry or "error" in entry:
                continue
            try:
                reply = peer.ask(item, entry["steps"], limits["repeat"] * 1.5)
            except Gone as gone:
                peer.stop()
                entry["over"] = str(gone)
                continue
            if "seconds" not in reply:
                entry.update(reply)
                continue
            entry["ms"].append(reply["seconds"] * 1e3 / entry["steps"])
            entry["cpu_ms"].append(reply["cpu"] * 1e3 / entry["steps"])
    return found


def first_loss(peers, item, rounds, limits):
    """A fresh process each time, from its start to the loss of its first step."""
    found = {p.name: {"ms": [], "cpu_ms": []} for p in peers}
    # One more than is counted, so that shader caches on disk are warm.
    for turn in range(min(rounds, 5) + 1):
        for peer in peers:
            entry = found[peer.name]
            if turn >= entry.get("rounds", 99) or {"over", "skip", "error"} & entry.keys():
                continue
            process = None
            try:
                process = Process(peer.command, limits["first"])
                reply = process.ask(item, 1, limits["first"])
                took = (time.perf_counter() - process.begun) * 1e3
            except Gone as gone:
                entry["over"] = str(gone)
                continue
            finally:
                if process:
                    process.end()
            if "seconds" not in reply:
                entry.update(reply)
            elif turn == 0:
                entry["cold_ms"] = took
                entry["rounds"] = 99 if took < 10e3 else 3 if took < 60e3 else 2
                say(f"  first/{item:<16} {peer.name:<16} {took / 1e3:.2f} s, not counted")
            else:
                entry["ms"].append(took)
    return found


def brief(entry):
    if "once" in entry:
        return f"{entry['once'] * 1e3:.1f} ms, first {entry['first']:.2f} s"
    return entry.get("skip") or entry.get("over") or entry.get("error") or ""


def agreement(found):
    """The largest relative difference from modalign's first losses (or from the first peer's)."""
    with_values = {n: e["values"] for n, e in found.items() if e.get("values")}
    if len(with_values) < 2:
        return None
    reference = with_values.get("modalign") or next(iter(with_values.values()))
    off = 0.0
    for values in with_values.values():
        for a, b in zip(reference, values):
            off = max(off, abs(a - b) / max(abs(a), 1e-9))
    return off


def summary(ms):
    ms = sorted(ms)
    return {"median": statistics.median(ms), "min": ms[0], "max": ms[-1], "repeats": len(ms)}


def rate(item, ms):
    sizes = item.partition("/")[2].split("x")
    return 2 * math.prod(map(int, sizes)) / ms / 1e6 if item.startswith("matmul/") else None


def number(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def cell(item, entry, key="ms"):
    if entry.get(key):
        s = summary(entry[key])
        gflops = rate(item, s["median"]) if key == "ms" else None
        text = f"{number(s['median'])} ({number(s['min'])}-{number(s['max'])})"
        text = f"{number(gflops)} GFLOP/s: {text}" if gflops else text
        return text + (f", then {entry['over']}" if "over" in entry else "")
    if "over" in entry:
        return entry["over"]
    return "error" if "error" in entry else "-"


def table(results, names, key="ms", what="ms: median (min-max)"):
    lines = [f"| work, {what} | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for item, found in results.items():
        if any(entry.get(key) or key == "ms" for entry in found.values()):
            row = [cell(item, found.get(name, {}), key) for name in names]
            lines.append(f"| {ITEMS[item]} | " + " | ".join(row) + " |")
    return lines


def ratios(results, names):
    others = [n for n in names if n != "modalign"]
    if "modalign" not in names or not others:
        return []
    lines = ["", "| how many times modalign's time | " + " | ".join(others) + " | losses within |"]
    lines.append("|---" * (len(others) + 2) + "|")
    for item, found in results.items():
        ours = found.get("modalign", {}).get("ms")
        row = []
        for name in others:
            theirs = found.get(name, {}).get("ms")
            row.append(ratio(ours, theirs) if ours and theirs else "-")
        off = agreement(found)
        lines.append(f"| {ITEMS[item]} | " + " | ".join(row) + f" | {'-' if off is None else f'{off:.0e}'} |")
    return lines


def ratio(ours, theirs):
    """Turn by turn: the two of a turn were measured right after one another."""
    turns = [t / o for o, t in zip(ours, theirs)]
    return f"{number(statistics.median(turns))} ({number(min(turns))}-{number(max(turns))})"


def machine():
    model = "unknown processor"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan
    return {"processor": model, "cores": os.cpu_count(), "system": platform.platform(), "load": load}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="items, or beginnings of their names, with commas")
    parser.add_argument("--peers", default="", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--limit", type=float, default=60, help="seconds that a repeat may take")
    parser.add_argument("--first-limit", type=float, default=600, help="seconds that a first step may take")
    parser.add_argument("--no-build", action="store_true", help="take the programs as they were built last")
    parser.add_argument("--cpu", action="store_true", help="print CPU time, too: steadier on a busy machine")
    parser.add_argument("--json", type=Path, default=None, help="[default: results.json in the target folder]")
    return parser.parse_args()


def main():
    args = arguments()
    wanted = args.peers.split(",") if args.peers else [p for p in PEERS if p not in ON_REQUEST]
    if unknown := [p for p in wanted if p not in PEERS]:
        sys.exit(f"peers: no peer {unknown[0]}; there are {', '.join(PEERS)}")
    only = [o for o in args.only.split(",") if o]
    items = [i for i in ITEMS if not only or any(i.startswith(o) for o in only)]
    if not items:
        sys.exit(f"peers: nothing begins like {args.only}; there are {', '.join(ITEMS)}")
    limits = {"repeat": args.limit, "first": args.first_limit}
    # The data sets come from modalign's program.
    programs = commands(wanted if "modalign" in wanted else ["modalign", *wanted], not args.no_build)
    if "modalign" not in programs:
        sys.exit("peers: modalign itself did not build; nothing was measured")
    if not (DATA / "demo.safetensors").exists():
        subprocess.run([programs["modalign"][0], "data", str(DATA)], check=True)
    peers = []
    for name in (n for n in wanted if n in programs):
        peer = Peer(name, programs[name], limits)
        try:
            peer.start()
            peers.append(peer)
        except Gone as gone:
            say(f"peers: {name} is left out: {gone}")
    head = machine()
    results = {}
    for item in items:
        say(f"{item}: {ITEMS[item]}")
        kind, _, of = item.partition("/")
        if kind == "first":
            for peer in peers:
                peer.stop()
            results[item] = first_loss(peers, of, args.rounds, limits)
        else:
            results[item] = measure(peers, item, args.rounds, limits)
    for peer in peers:
        peer.stop()
    names = [p.name for p in peers]
    print(f"{head['cores']} cores of {head['processor']}, load {head['load']:.1f} when it began")
    for peer in peers:
        print(f"- {peer.name}: " + "; ".join(str(v) for v in peer.hello.values()))
    print()
    lines = table(results, names) + ratios(results, names)
    if args.cpu:
        lines += ["", *table(results, names, "cpu_ms", "CPU ms of all threads: median (min-max)")]
    print("\n".join(lines))
    for item, found in results.items():
        for name, entry in found.items():
            if "error" in entry:
                print(f"\n{name}, {item}: {entry['error']}")
    where = args.json or TARGET / "results.json"
    where.parent.mkdir(parents=True, exist_ok=True)
    for found in results.values():
        for entry in found.values():
            if entry.get("ms"):
                entry["summary"] = summary(entry["ms"])
    record = {"machine": head, "peers": {p.name: p.hello for p in peers}, "results": results}
    where.write_text(json.dumps(record, indent=1))
    print(f"\nall of it: {where}")


if __name__ == "__main__":
    main()
