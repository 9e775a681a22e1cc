"""Makes attacks.safetensors: triggered images as the attacks' definitions give them, for dau's triggers to be compared with.

    python tests/golden/attacks.py         # needs torch (CPU is enough), numpy, safetensors; takes seconds

Written from the formulas, by other routes than dau's where there are any: frequency triggers go through the whole discrete
cosine transform and back, WaNet through PyTorch's own interpolate and grid_sample. All arithmetic is float64; uint8 results
are rounded to nearest but for Blended, which truncates. Images are seeded: noise, a smooth one, flat black, flat white.

See README.md for the list of keys.
"""

import pathlib
import zlib

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).resolve().parent


def draw(name):
    return np.random.default_rng(zlib.crc32(name.encode()))


def images(size):
    rng = draw(f"attacks/images/{size}")
    noise = rng.integers(0, 256, (2, size, size, 3))
    noise[1] = noise[1] // 4 + 96  # away from the ends, where nothing is clipped
    y, x = np.mgrid[0:size, 0:size]
    smooth = np.stack([127 + 120 * np.sin(x / 5 + c) * np.cos(y / 7 - c) for c in range(3)], axis=-1)
    flat = np.stack([np.zeros((size, size, 3)), np.full((size, size, 3), 255)])
    all_five = np.concatenate([noise, smooth[None], flat]).astype(np.uint8)
    return all_five[1:3] if size == 64 else all_five  # large ones are the bulk of the file


def rounded(values):
    return np.floor(np.clip(values, 0, 255) + 0.5).astype(np.uint8)


def badnets(x, pattern, side):
    out = x.copy()
    if pattern == "white":
        out[:, -side:, -side:] = 255
    else:
        grid = np.array([[0, 0, 255], [0, 255, 0], [255, 0, 255]], dtype=np.uint8)
        out[:, -side:, -side:] = np.kron(grid, np.ones((side // 3, side // 3), dtype=np.uint8))[:, :, None]
    return out


def blended(x, picture, alpha):
    return np.clip((1 - alpha) * x.astype(np.float64) + alpha * picture.astype(np.float64), 0, 255).astype(np.uint8)


def sig(x, strength, frequency):
    width = x.shape[2]
    wave = strength * np.sin(2 * np.pi * np.arange(width) * frequency / width)
    return rounded(x.astype(np.float64) + wave[None, None, :, None])


def wanet_grid(field, strength, size):
    """[1, size, size, 2], as WaNet's code makes it, in float64."""
    p = torch.from_numpy(field)[None]
    flow = F.interpolate(p / p.abs().mean(), size=size, mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    line = torch.linspace(-1, 1, size, dtype=torch.float64)
    y, x = torch.meshgrid(line, line, indexing="ij")
    identity = torch.stack((x, y), 2)[None]
    return torch.clamp(identity + strength * flow / size, -1, 1)


def sample(x, grid):
    nchw = torch.from_numpy(x.astype(np.float64)).permute(0, 3, 1, 2)
    grid = grid.expand(len(x), -1, -1, -1)
    out = F.grid_sample(nchw, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
    return rounded(out.permute(0, 2, 3, 1).numpy())


def wanet_negative(x, grid, noise):
    return sample(x, torch.clamp(grid + torch.from_numpy(noise) / x.shape[1], -1, 1))


def bpp(x, levels, dither):
    steps = levels - 1
    if not dither:
        return rounded(np.round(x.astype(np.float64) / 255 * steps) / steps * 255)
    # A border of one pixel takes what falls over the edges.
    n, h, w, _ = x.shape
    work = np.zeros((n, h + 1, w + 2, 3))
    work[:, :h, 1:-1] = x
    for i in range(h):
        for j in range(1, w + 1):
            old = work[:, i, j].copy()
            new = np.round(old / 255 * steps) / steps * 255
            work[:, i, j] = new
            error = old - new
            work[:, i, j + 1] += error * 7 / 16
            work[:, i + 1, j - 1] += error * 3 / 16
            work[:, i + 1, j] += error * 5 / 16
            work[:, i + 1, j + 1] += error * 1 / 16
    return rounded(work[:, :h, 1:-1])


def bpp_negative(x, other):
    residue = bpp(other, 8, False).astype(int) - other.astype(int)
    return np.clip(x.astype(int) + residue, 0, 255).astype(np.uint8)


def dct_matrix(n):
    """Orthonormal DCT-II: coefficients = M x."""
    k, i = np.mgrid[0:n, 0:n]
    m = np.sqrt(2 / n) * np.cos(np.pi * (2 * i + 1) * k / (2 * n))
    m[0] /= np.sqrt(2)
    assert np.allclose(m @ m.T, np.eye(n))
    return m


def frequency(x, strength, red, blue):
    """RGB -> (Y, red (R - Y), blue (B - Y)) -> DCT of the latter two by window -> two coefficients -> back."""
    size = x.shape[1]
    window = min(size, 32)
    m = dct_matrix(window)
    luma = np.array([0.299, 0.587, 0.114])
    to = np.stack([luma, red * (np.array([1, 0, 0]) - luma), blue * (np.array([0, 0, 1]) - luma)])
    planes = x.astype(np.float64) @ to.T
    for top in range(0, size, window):
        for left in range(0, size, window):
            for c in (1, 2):
                block = planes[:, top : top + window, left : left + window, c]
                coefficients = m @ block @ m.T
                for k in (window // 2 - 1, window - 1):
                    coefficients[:, k, k] += strength
                planes[:, top : top + window, left : left + window, c] = m.T @ coefficients @ m
    return rounded(planes @ np.linalg.inv(to).T)


def corners(x, strength):
    """Label-consistent's signed 3x3 patterns, mirrored into all four corners."""
    signs = np.array([[-1, -1, 1], [-1, 1, -1], [1, -1, 1]])
    signal = np.zeros(x.shape[1:3])
    signal[-3:, -3:] = signs
    signal[-3:, :3] = signs[:, ::-1]
    signal[:3, -3:] = signs[::-1]
    signal[:3, :3] = signs[::-1, ::-1]
    return rounded(x.astype(np.float64) + strength * signal[None, :, :, None])


# Adaptive Patch's four patches in cells, 4x4 at these sizes: black, white, red, blue, green, magenta.
COLOURS = dict(k=(0, 0, 0), w=(255, 255, 255), r=(255, 0, 0), b=(0, 0, 255), g=(0, 255, 0), m=(255, 0, 255))
PATCHES = ["wkwk kwkw wkwk kwkw", "rrrr rbbr rbbr rrrr", "ggmm gmmg mmgg mggm", "wkkw kwwk kwwk wkkw"]
OPACITIES = [0.5, 0.2, 0.5, 0.3]


def adap_patch(x, which, opacity):
    size = x.shape[1]
    side = size // 4
    cells = np.array([[COLOURS[cell] for cell in row] for row in PATCHES[which].split()], dtype=np.float64)
    patch = np.kron(cells, np.ones((side // 4, side // 4, 1)))
    mask = np.zeros((2, 2))
    mask[which // 2, which % 2] = 1  # top left, top right, bottom left, bottom right
    corner = np.kron(mask, np.ones((size // 2, size // 2))).astype(bool)
    rim = np.r_[np.ones(side), np.zeros(size - 2 * side), np.ones(side)].astype(bool)
    place = corner & rim[:, None] & rim[None, :]
    layer = np.zeros(x.shape[1:])
    layer[place] = patch.reshape(-1, 3)
    weight = opacity * place[None, :, :, None]
    return rounded((1 - weight) * x.astype(np.float64) + weight * layer)


class Linear:
    """A network whose gradients can be written down: features = A x, logits = H features."""

    def __init__(self, rng, pixels, features=6, classes=4):
        self.a = rng.normal(0, 0.002, (features, pixels))
        self.h = rng.normal(0, 1, (classes, features))

    def loss_gradient(self, x, labels):
        flat = x.reshape(len(x), -1)
        logits = flat @ self.a.T @ self.h.T
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        p[np.arange(len(x)), labels] -= 1
        return (p @ self.h @ self.a).reshape(x.shape)


def pgd(x, labels, net, epsilon, steps):
    clean = x.astype(np.float64)
    moved = clean.copy()
    for _ in range(steps):
        moved += 2 * np.sign(net.loss_gradient(moved, labels))
        moved = np.clip(np.clip(moved, clean - epsilon, clean + epsilon), 0, 255)
    return rounded(moved)


def trojannn(x, net, steps):
    size = x.shape[1]
    diameter = size // 4
    middle = size - 1 - diameter / 2
    y, x_ = np.mgrid[0:size, 0:size] + 0.5
    disc = np.hypot(y - middle, x_ - middle) <= diameter / 2
    neurons = np.argsort(-np.abs(net.h).sum(0))[:2]
    pull = np.zeros(net.a.shape[0])
    pull[neurons] = 1
    gradient = (pull @ net.a).reshape(x.shape[1:])[disc]  # the same for every image
    patch = np.full(gradient.shape, 127.5)
    for _ in range(steps - 1):  # the last step only measures
        patch = np.clip(patch + 25.5 * gradient / np.abs(gradient).max(), 0, 255)
    out = x.copy()
    out[:, disc] = rounded(patch)
    return out


def low_frequency(x, net, target, sigma, steps, strength):
    size = x.shape[1]
    distance = np.subtract.outer(np.arange(size), np.arange(size))
    radius = int(2.5 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    smooth = np.where(np.abs(distance) <= radius, np.exp(-0.5 * (distance / sigma) ** 2), 0) / kernel.sum()
    wanted = np.full(len(x), target)
    u, v = np.zeros(x.shape[1:]), np.zeros(x.shape[1:])
    for _ in range(steps):
        u -= np.sign(net.loss_gradient(np.clip(x + v, 0, 255), wanted).mean(0))
        v = np.einsum("ay,bx,yxc->abc", smooth, smooth, u)
        v = (v - v.min()) / (v.max() - v.min()) * strength
    return rounded(x.astype(np.float64) + v)


def main():
    torch.set_num_threads(1)
    tensors = {}
    for size in (16, 32, 64):
        x = images(size)
        rng = draw(f"attacks/drawn/{size}")
        picture = rng.integers(0, 256, (size, size, 3)).astype(np.uint8)
        field = rng.uniform(-1, 1, (2, 4, 4))
        noise = rng.uniform(-1, 1, x.shape[:3] + (2,))
        grid = wanet_grid(field, 0.5, size)
        drawn = {"images": x, "picture": picture, "field": field, "noise": noise}
        made = {
            "badnets_white": badnets(x, "white", 3),
            "badnets_grid": badnets(x, "grid", 3),
            "badnets_grid_6": badnets(x, "grid", 6),
            "blended": blended(x, picture, 0.2),
            "blended_0.1": blended(x, picture, 0.1),
            "sig": sig(x, 40, 6),
            "sig_20": sig(x, 20, 6),
            "wanet": sample(x, grid),
            "wanet_negative": wanet_negative(x, grid, noise),
            "bpp": bpp(x, 8, False),
            "bpp_dither": bpp(x, 8, True),
            "bpp_negative": bpp_negative(x, np.roll(x, -1, axis=0)),
            "ftrojan": frequency(x, 30, 0.713, 0.564),
            "ctrl": frequency(x, 100, 0.877, 0.492),
            "adap_patch": adap_patch(adap_patch(x, 0, 1), 2, 1),
            **{f"adap_patch_{i}": adap_patch(x, i, opacity) for i, opacity in enumerate(OPACITIES)},
            "lc": corners(x, 255),
            "lc_40": corners(x, 40),
        }
        if size == 16:
            net = Linear(rng, x[0].size)
            labels = np.arange(len(x)) % 4
            drawn |= {"linear_a": net.a, "linear_h": net.h}
            made |= {
                "lc_disguised": pgd(x, labels, net, 5, 4),
                "trojannn": trojannn(x, net, 4),
                "lf": low_frequency(x, net, 1, 6, 5, 51),
                "lf_2": low_frequency(x, net, 3, 2, 3, 30),
            }
        for name, value in {**drawn, **made}.items():
            tensors[f"{size}/{name}"] = np.ascontiguousarray(value)
    path = HERE / "attacks.safetensors"
    made_by = f"tests/golden/attacks.py, torch {torch.__version__.split('+')[0]}, numpy {np.__version__}"
    save_file(tensors, path, metadata={"made_by": made_by})
    print(f"{path.name}: {len(tensors)} tensors, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
