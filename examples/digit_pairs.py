"""Makes data sets of two pictures each whose interactions are known, of scikit-learn's handwritten digits.

    pip install numpy safetensors scikit-learn
    python examples/digit_pairs.py FOLDER
    modalign interactions FOLDER/xor.safetensors
    modalign holistic FOLDER/holistic.toml

halves   the left and the right half of a digit: each alone tells most of it
same     two pictures of the same digit: what one tells the other does too
parity   two digits, whether the first is odd: one alone decides
xor      two digits of 0 and 1, whether they differ: only both together tell
"""

import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from sklearn.datasets import load_digits

PLAN = """# Where models are strong that fuse late, by concatenation and by products: modalign holistic holistic.toml
seeds = 3
[set]
"train.max_epochs" = 25
"train.early_stop" = 0
"train.batch_size" = 32
"train.metric_for_best_model" = "accuracy"
[[data]]
path = "halves.safetensors"
[[data]]
path = "same.safetensors"
[[data]]
path = "parity.safetensors"
[[data]]
path = "xor.safetensors"
[[model]]
name = "late"
set = { "model.name" = "mla", "train.lr" = 0.03 }
[[model]]
name = "concatenation"
set = { "model.name" = "lf_dnn", "train.lr" = 1e-3 }
[[model]]
name = "products"
set = { "model.name" = "lmf", "train.lr" = 1e-3 }
"""


def save(path, first, second, label):
    """Seven tenths of the rows for training, a tenth for validation, a fifth for the test."""
    rows = len(label)
    ends = {"train": (0, rows * 7 // 10), "valid": (rows * 7 // 10, rows * 8 // 10), "test": (rows * 8 // 10, rows)}
    flat = lambda x: np.ascontiguousarray(x.reshape(len(x), 1, -1).astype(np.float32))
    out = {}
    for split, (start, end) in ends.items():
        out[f"{split}.left"] = flat(first[start:end])
        out[f"{split}.right"] = flat(second[start:end])
        out[f"{split}.class_labels"] = label[start:end].astype(np.int32)
    save_file(out, path)


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(2026)
    digits = load_digits()
    order = rng.permutation(len(digits.target))
    pictures, label = digits.data[order].reshape(-1, 8, 8) / 16, digits.target[order]
    save(folder / "halves.safetensors", pictures[:, :, :4], pictures[:, :, 4:], label)

    other = np.arange(len(label))
    for digit in range(10):
        own = np.flatnonzero(label == digit)
        other[own] = rng.permutation(own)
    save(folder / "same.safetensors", pictures, pictures[other], label)

    other = rng.permutation(len(label))
    save(folder / "parity.safetensors", pictures, pictures[other], label % 2)

    bits = np.flatnonzero(label < 2)
    first, second = rng.choice(bits, 800), rng.choice(bits, 800)
    save(folder / "xor.safetensors", pictures[first], pictures[second], label[first] ^ label[second])
    (folder / "holistic.toml").write_text(PLAN)


if __name__ == "__main__":
    main()
