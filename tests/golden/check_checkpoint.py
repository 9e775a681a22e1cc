"""Checks that a dau checkpoint means the same network in PyTorch.

    dau predict --checkpoint M.safetensors --dataset ... --split test --out LOGITS.safetensors
    python tests/golden/check_checkpoint.py M.safetensors LOGITS.safetensors

M.safetensors holds the weights under PyTorch's names and, in its header, `dau`: a JSON object with "model", "width",
"classes", "image_size", and the "mean" and "std" of pixels scaled to 0..1. LOGITS.safetensors holds `images` (uint8 [N, S, S, 3]) and dau's
`logits` (float32 [N, K]) for them. The weights are loaded with strict=True and the logits computed again in evaluation
mode, in float64. Exit code: 0 if they agree, 1 if the relative error is above 1e-4, 2 if a file is not as described.
"""

import json
import sys

import torch
from safetensors import SafetensorError, safe_open

from networks import build

TOLERANCE = 1e-4
BATCH = 250


def refuse(message):
    print(message, file=sys.stderr)
    raise SystemExit(2)


def read(path):
    """All tensors of a safetensors file, and its header's metadata."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        refuse(f"{path}: {error}")


def load(path):
    """The network in evaluation mode and float64, and the mean and std that its pixels are normalised with."""
    state, header = read(path)
    if "dau" not in header:
        refuse(f"{path}: the header lacks `dau`; it has {header}")
    header = json.loads(header["dau"])
    try:
        model = build(header["model"], int(header["width"]), int(header["classes"]), int(header["image_size"])).double().eval()
    except KeyError:
        refuse(f"{path}: there is no model {header['model']!r} here")
    # strict=True forgives a missing num_batches_tracked when it is given a plain dict; this does not.
    if state.keys() != model.state_dict().keys():
        refuse(f"{path}: missing or unexpected tensors: {', '.join(sorted(state.keys() ^ model.state_dict().keys()))}")
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        refuse(f"{path}: {error}")
    mean, std = (torch.tensor(header[key], dtype=torch.float64) for key in ["mean", "std"])
    return model, mean, std


def main():
    if len(sys.argv) != 3:
        refuse("usage: check_checkpoint.py CHECKPOINT.safetensors LOGITS.safetensors")
    model, mean, std = load(sys.argv[1])
    given, _ = read(sys.argv[2])
    if not {"images", "logits"} <= given.keys():
        refuse(f"{sys.argv[2]}: expected images and logits, found {', '.join(given)}")
    images, logits = given["images"], given["logits"].double()
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[3] != 3:
        refuse(f"{sys.argv[2]}: images must be uint8 [N, S, S, 3], not {images.dtype} {list(images.shape)}")

    expected = []
    with torch.no_grad():
        for rows in images.split(BATCH):
            x = ((rows.double() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
            expected.append(model(x))
    expected = torch.cat(expected)
    if logits.shape != expected.shape or len(logits) == 0:
        refuse(f"{sys.argv[2]}: logits are {list(logits.shape)}, expected {list(expected.shape)}, and at least one row")

    difference = logits - expected
    relative = (difference.norm() / expected.norm()).item()
    agree = (logits.argmax(1) == expected.argmax(1)).sum().item()
    agrees = relative <= TOLERANCE  # false for NaN too
    print(f"images               {len(images)}")
    print(f"max abs difference   {difference.abs().max().item():.3e}")
    print(f"relative error       {relative:.3e} (allowed {TOLERANCE:.0e})")
    print(f"argmax agreement     {agree}/{len(images)}")
    print("the same network" if agrees else "NOT the same network")
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main())
