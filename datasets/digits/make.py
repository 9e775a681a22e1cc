#!/usr/bin/env python3
"""Writes digits.png and labels.txt from scikit-learn's copy of the UCI digits, and prints the figures of ../digits.toml.

    pip install scikit-learn numpy pillow && python make.py

digits.png  one 8-bit grey sheet, COLUMNS digits a row in scikit-learn's order; a pixel is round(value * 255 / 16).
labels.txt  the digits' labels in the same order, one text line for a row of the sheet.
"""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

COLUMNS, SIDE, ENLARGED, TEST_PER_CLASS = 45, 8, 16, 50
here = Path(__file__).parent

digits = load_digits()
values, labels = digits.images, digits.target
assert values.shape == (1797, SIDE, SIDE) and values.min() == 0 and values.max() == 16
assert (values == values.astype(int)).all(), "the values are whole numbers"
grey = np.rint(values * 255 / 16).astype(np.uint8)

rows = -(-len(grey) // COLUMNS)
sheet = np.zeros((rows * COLUMNS, SIDE, SIDE), np.uint8)
sheet[: len(grey)] = grey
sheet = sheet.reshape(rows, COLUMNS, SIDE, SIDE).transpose(0, 2, 1, 3).reshape(rows * SIDE, COLUMNS * SIDE)
Image.fromarray(sheet).save(here / "digits.png", optimize=True)
text = "".join(map(str, labels))
(here / "labels.txt").write_text("".join(text[i : i + COLUMNS] + "\n" for i in range(0, len(text), COLUMNS)))

# The split of src/data/split.rs: a class's 50 test images lie evenly among its images, so both parts hold every writer.
train = np.ones(len(labels), bool)
for label in range(10):
    members = np.flatnonzero(labels == label)
    j, n = np.arange(len(members)), len(members)
    train[members[(j + 1) * TEST_PER_CLASS // n > j * TEST_PER_CLASS // n]] = False
assert train.sum() == 1297

enlarged = [np.asarray(Image.fromarray(g).resize((ENLARGED, ENLARGED), Image.Resampling.BILINEAR)) for g in grey[train]]
pixels = np.stack(enlarged) / 255
print(f"training images {train.sum()}, test images {(~train).sum()}")
print(f"mean {pixels.mean():.4f}  std {pixels.std():.4f}")
