"""TensorBoard event files from run folders.

    pip install tensorboardX
    python examples/tensorboard.py runs/play-mosi-1111 --out tb
    python examples/tensorboard.py runs/ablation --out tb     # every run of an experiment
    tensorboard --logdir tb

Scalars by micro-batch (step/...), by epoch (train/..., valid/...), and at the end (test/...), so that
runs can be laid over each other; in HParams, every setting beside the final scores.
"""

import argparse
import json
import pathlib
import tomllib

from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams


def lines(path):
    """Whole lines of a log that may still be written to."""
    if not path.exists():
        return
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return


def flat(table, prefix=""):
    for key, value in table.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def convert(run, out):
    writer = SummaryWriter(str(out), flush_secs=3600)
    for step, line in enumerate(lines(run / "steps.jsonl"), 1):
        for key, value in line.items():
            if key not in ("epoch", "batch"):
                writer.add_scalar(f"step/{key}", value, step)
    for line in lines(run / "epochs.jsonl"):
        epoch = line["epoch"]
        writer.add_scalar("train/loss", line["loss"], epoch)
        for key, value in line["parts"].items():
            writer.add_scalar(f"train/{key}", value, epoch)
        if line.get("valid_loss") is not None:
            writer.add_scalar("valid/loss", line["valid_loss"], epoch)
        for key, value in (line.get("valid") or {}).items():
            writer.add_scalar(f"valid/{key}", value, epoch)
    metrics = run / "metrics.json"
    if metrics.exists():
        ended = json.loads(metrics.read_text())
        scores = {f"test/{key}": value for key, value in (ended.get("test") or {}).items()}
        for key, value in scores.items():
            writer.add_scalar(key, value, ended["best_epoch"])
        settings = dict(flat(tomllib.loads((run / "config.toml").read_text())))
        # The writer's own method would open a second file, which hides the first from some readers.
        for summary in hparams(settings, scores):
            writer.file_writer.add_summary(summary)
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folders", nargs="+", type=pathlib.Path, help="runs, or folders with runs in them")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="TensorBoard's log folder")
    args = parser.parse_args()
    found = 0
    for folder in args.folders:
        root = folder.parent if (folder / "config.toml").exists() else folder
        for config in sorted(folder.rglob("config.toml")):
            run = config.parent
            convert(run, args.out / run.relative_to(root))
            found += 1
    if not found:
        raise SystemExit(f"no run (a folder with config.toml) in {', '.join(map(str, args.folders))}")
    print(f"{args.out}: {found} runs; look at them with: tensorboard --logdir {args.out}")


if __name__ == "__main__":
    main()
