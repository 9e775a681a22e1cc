"""Makes the golden files of the networks other than `resnet_w8`, and state dicts as torch.save writes them.

    python tests/golden/make_networks.py       # needs torch (CPU is enough), numpy, safetensors; takes a minute

A file a network, `network_NAME_SIZE.safetensors`: init/<name>, x, labels, logits (training mode), eval_logits, loss, and
grad/<name> of all parameters of at most 5,000 elements: an error of a larger one shows in those below it, and the
convolution has golden files of its own. `make.py` says how values are drawn; README.md lists the keys.
"""

from collections import OrderedDict

import numpy as np
import torch
import torch.nn.functional as F

from make import HERE, Draw, Golden, first_draw, initial_values, relu_distance, stored
from networks import build

CLASSES, BATCH, MOST = 10, 4, 5000
NETWORKS = [
    ("resnet34", 4, 16),
    ("resnet18", 4, 64),
    ("preact-resnet18", 4, 16),
    ("wrn-16", 1, 16),
]
# ResNets with the stem that is not the usual one for images of their size: whether it is the large one.
STEMS = [
    ("resnet18", 4, 32, True),
]


def network(name, width, size, state, large=None):
    model = build(name, width, CLASSES, size, large).double()
    model.load_state_dict(state)
    return model


def golden_network(name, width, size, large=None):
    golden = Golden()
    title = f"{name}_{width}_{size}" + {None: "", True: "_large", False: "_small"}[large]
    state = initial_values(Draw(f"{title}/init"), build(name, width, CLASSES, size, large).double().state_dict())

    def make(draw):
        return draw.normal(BATCH, 3, size, size), draw.labels(BATCH, CLASSES)

    def accept(made):
        return relu_distance(network(name, width, size, state, large).train(), made[0]) > 1e-5

    x, labels = first_draw(f"{title}/batch", accept, make, attempts=1000)
    model = network(name, width, size, state, large).train()
    logits = model(x)
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    with torch.no_grad():
        evaluated = network(name, width, size, state, large).eval()(x)
    golden.add("init", **state)
    golden.add("grad", **{n: p.grad for n, p in model.named_parameters() if p.numel() <= MOST})
    for key, tensor in dict(x=x, labels=labels.int(), logits=logits, eval_logits=evaluated, loss=loss[None]).items():
        golden.tensors[key] = stored(tensor)
    if name == "preact-resnet18":
        pixel_logits(golden, state)
        torch_files(state)
    golden.save(f"network_{title}.safetensors")


def odd_views(state):
    """The same values in storages as odd as training leaves them: transposed, strided, several on one storage."""
    convs = [name for name, tensor in state.items() if tensor.dim() == 4]
    out = OrderedDict(state)
    out[convs[0]] = out[convs[0]].contiguous(memory_format=torch.channels_last)
    shared = torch.cat([out[name].flatten() for name in convs[1:3]])
    at = 0
    for name in convs[1:3]:
        count = out[name].numel()
        out[name] = shared[at : at + count].view(out[name].shape)
        at += count
    out["linear.weight"] = out["linear.weight"].t().contiguous().t()
    return out


def pixel_logits(golden, state):
    """8-bit images, and the logits for them normalised with mean 0.5 and std 0.25."""
    pixels = Draw("import/pixels").rng.integers(0, 256, (BATCH, 16, 16, 3), dtype="uint8")
    x = (torch.from_numpy(pixels).double().permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    with torch.no_grad():
        logits = network("preact-resnet18", 4, 16, state).eval()(x)
    golden.tensors.update(pixels=pixels, pixels_labels=np.arange(BATCH, dtype=np.int32), pixels_logits=stored(logits))


def torch_files(state):
    """The state dict of preact-resnet18, as DataParallel and training scripts leave it."""
    values = OrderedDict((name, tensor if tensor.dtype == torch.int64 else tensor.float()) for name, tensor in state.items())
    for tensor in values.values():
        if tensor.dtype == torch.int64:
            tensor.fill_(7)
    whole = {"epoch": 3, "best": 0.5, "state_dict": odd_views(values), "args": ["--lr", 0.1, None, (1, 2)]}
    torch.save(whole, HERE / "preact_zip.pt")
    types = [torch.float16, torch.bfloat16, torch.float64]
    mixed = OrderedDict()
    for i, (name, tensor) in enumerate(odd_views(values).items()):
        narrow = tensor if tensor.dtype == torch.int64 else tensor.to(types[i % 2 if tensor.numel() > 500 else i % 3])
        mixed[f"module.{name}"] = torch.nn.Parameter(narrow) if name.startswith("linear") else narrow
    torch.save({"net": mixed}, HERE / "preact_legacy.pt", _use_new_zipfile_serialization=False)


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for case in NETWORKS + STEMS:
        golden_network(*case)


if __name__ == "__main__":
    main()
