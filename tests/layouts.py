"""Two other StyleGAN2 programs in miniature, from scratch: random weights in their layout, and the picture they paint.

Nothing here uses the package, so that the conversions are held against what those programs compute: rosinality's
(modulated weights in a grouped convolution, kernels with the upsampling gain in them) and the TensorFlow ones (HWIO
kernels, dense weights [in, out], flipped kernels in the transposed convolution, style biases without their 1).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

Tensors = dict[str, torch.Tensor]
TAPS = (1.0, 3.0, 3.0, 1.0)


def _randn(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator)


def _fir(x: torch.Tensor, kernel: torch.Tensor, pad: tuple[int, int], up: int = 1, down: int = 1) -> torch.Tensor:
    """Zero insertion, padding and filtering, one channel at a time; ``kernel [4, 4]``."""
    n, c, h, w = x.shape
    wide = torch.zeros(n, c, h * up, w * up)
    wide[:, :, ::up, ::up] = x
    wide = F.pad(wide, [pad[0], pad[1], pad[0], pad[1]])
    out = F.conv2d(wide.reshape(n * c, 1, *wide.shape[2:]), kernel.flip([0, 1])[None, None])
    return out.reshape(n, c, *out.shape[2:])[:, :, ::down, ::down]


def _lrelu(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x > 0, x, 0.2 * x) * 2**0.5


def _unit_kernel(taps: tuple[float, ...] = TAPS) -> torch.Tensor:
    line = torch.tensor(taps)
    kernel = line[None, :] * line[:, None]
    return kernel / kernel.sum()


def _minibatch_std(x: torch.Tensor, groups_of: int = 4) -> torch.Tensor:
    group = min(groups_of, len(x))
    y = x.view(group, -1, 1, *x.shape[1:])
    y = (y.var(0, unbiased=False) + 1e-8).sqrt().mean([2, 3, 4], keepdim=True).squeeze(2)
    return torch.cat([x, y.repeat(group, 1, *x.shape[2:])], 1)


# ---------------------------------------------------------------- rosinality


def rosinality_generator(seed: int, channels: list[int], w_dim: int = 12, layers: int = 2) -> Tensors:
    """Random weights as in a checkpoint's g_ema; ``channels`` from 4x4 up."""
    g = torch.Generator().manual_seed(seed)
    state: Tensors = {"input.input": _randn(g, 1, channels[0], 4, 4)}
    for i in range(layers):
        state[f"style.{i + 1}.weight"] = _randn(g, w_dim, w_dim) / 0.01
        state[f"style.{i + 1}.bias"] = _randn(g, w_dim) / 0.01 * 0.1

    def modulated(name: str, c_in: int, c_out: int, size: int) -> None:
        state[f"{name}.conv.weight"] = _randn(g, 1, c_out, c_in, size, size)
        state[f"{name}.conv.modulation.weight"] = _randn(g, c_in, w_dim)
        state[f"{name}.conv.modulation.bias"] = 1 + 0.3 * _randn(g, c_in)

    def styled(name: str, c_in: int, c_out: int, up: bool) -> None:
        modulated(name, c_in, c_out, 3)
        if up:
            state[f"{name}.conv.blur.kernel"] = _unit_kernel() * 4
        state[f"{name}.noise.weight"] = 0.3 * _randn(g, 1)
        state[f"{name}.activate.bias"] = 0.2 * _randn(g, c_out)

    def to_rgb(name: str, c_in: int, up: bool) -> None:
        modulated(name, c_in, 3, 1)
        state[f"{name}.bias"] = 0.2 * _randn(g, 1, 3, 1, 1)
        if up:
            state[f"{name}.upsample.kernel"] = _unit_kernel() * 4

    styled("conv1", channels[0], channels[0], up=False)
    to_rgb("to_rgb1", channels[0], up=False)
    for i, (c_in, c_out) in enumerate(zip(channels, channels[1:], strict=False)):
        styled(f"convs.{2 * i}", c_in, c_out, up=True)
        styled(f"convs.{2 * i + 1}", c_out, c_out, up=False)
        to_rgb(f"to_rgbs.{i}", c_out, up=True)
    for i in range(2 * len(channels) - 1):
        side = 2 ** ((i + 5) // 2)
        state[f"noises.noise_{i}"] = _randn(g, 1, 1, side, side)
    return state


def _rosinality_modulated(
    state: Tensors, name: str, x: torch.Tensor, w: torch.Tensor, demodulate: bool, up: bool
) -> torch.Tensor:
    weight = state[f"{name}.conv.weight"]
    _, c_out, c_in, size, _ = weight.shape
    n, _, h, width = x.shape
    modulation = state[f"{name}.conv.modulation.weight"]
    style = w @ (modulation / math.sqrt(modulation.shape[1])).t() + state[f"{name}.conv.modulation.bias"]
    weight = weight / math.sqrt(c_in * size**2) * style.view(n, 1, c_in, 1, 1)
    if demodulate:
        weight = weight * torch.rsqrt(weight.pow(2).sum([2, 3, 4], keepdim=True) + 1e-8)
    x = x.reshape(1, n * c_in, h, width)
    if up:
        weight = weight.transpose(1, 2).reshape(n * c_in, c_out, size, size)
        x = F.conv_transpose2d(x, weight, stride=2, groups=n)
        return _fir(x.view(n, c_out, *x.shape[2:]), state[f"{name}.conv.blur.kernel"], (1, 1))
    x = F.conv2d(x, weight.reshape(n * c_out, c_in, size, size), padding=size // 2, groups=n)
    return x.view(n, c_out, h, width)


def rosinality_w(state: Tensors, z: torch.Tensor) -> torch.Tensor:
    """``w [N, w_dim]`` of ``z [N, w_dim]``."""
    x = z * torch.rsqrt(z.pow(2).mean(1, keepdim=True) + 1e-8)
    for i in range(sum(name.startswith("style.") for name in state) // 2):
        weight, bias = state[f"style.{i + 1}.weight"], state[f"style.{i + 1}.bias"]
        x = _lrelu(x @ (weight / math.sqrt(weight.shape[1]) * 0.01).t() + bias * 0.01)
    return x


def rosinality_picture(state: Tensors, z: torch.Tensor, truncation: float, mean: torch.Tensor) -> torch.Tensor:
    """Images of ``z`` with the stored noise, truncated towards ``mean``."""
    w = mean + truncation * (rosinality_w(state, z) - mean)

    def styled(name: str, x: torch.Tensor, index: int) -> torch.Tensor:
        x = _rosinality_modulated(state, name, x, w, True, f"{name}.conv.blur.kernel" in state)
        x = x + state[f"{name}.noise.weight"] * state[f"noises.noise_{index}"]
        return _lrelu(x + state[f"{name}.activate.bias"].view(1, -1, 1, 1))

    def to_rgb(name: str, x: torch.Tensor, skip: torch.Tensor | None) -> torch.Tensor:
        out = _rosinality_modulated(state, name, x, w, False, False) + state[f"{name}.bias"]
        return out if skip is None else out + _fir(skip, state[f"{name}.upsample.kernel"], (2, 1), up=2)

    x = styled("conv1", state["input.input"].repeat(len(z), 1, 1, 1), 0)
    image = to_rgb("to_rgb1", x, None)
    for i in range(sum(name.endswith("upsample.kernel") for name in state)):
        x = styled(f"convs.{2 * i}", x, 2 * i + 1)
        x = styled(f"convs.{2 * i + 1}", x, 2 * i + 2)
        image = to_rgb(f"to_rgbs.{i}", x, image)
    return image


def rosinality_discriminator(seed: int, channels: list[int]) -> Tensors:
    """Random weights as in a checkpoint's d; ``channels`` from 4x4 up."""
    g = torch.Generator().manual_seed(seed)
    down = channels[::-1]
    state: Tensors = {"convs.0.0.weight": _randn(g, down[0], 3, 1, 1), "convs.0.1.bias": 0.1 * _randn(g, down[0])}
    for i, (c_in, c_out) in enumerate(zip(down, down[1:], strict=False), start=1):
        state[f"convs.{i}.conv1.0.weight"] = _randn(g, c_in, c_in, 3, 3)
        state[f"convs.{i}.conv1.1.bias"] = 0.1 * _randn(g, c_in)
        state[f"convs.{i}.conv2.0.kernel"] = _unit_kernel()
        state[f"convs.{i}.conv2.1.weight"] = _randn(g, c_out, c_in, 3, 3)
        state[f"convs.{i}.conv2.2.bias"] = 0.1 * _randn(g, c_out)
        state[f"convs.{i}.skip.0.kernel"] = _unit_kernel()
        state[f"convs.{i}.skip.1.weight"] = _randn(g, c_out, c_in, 1, 1)
    top = channels[0]
    state["final_conv.0.weight"], state["final_conv.1.bias"] = _randn(g, top, top + 1, 3, 3), 0.1 * _randn(g, top)
    state["final_linear.0.weight"], state["final_linear.0.bias"] = _randn(g, top, top * 16), 0.1 * _randn(g, top)
    state["final_linear.1.weight"], state["final_linear.1.bias"] = _randn(g, 1, top), 0.1 * _randn(g, 1)
    return state


def rosinality_scores(state: Tensors, images: torch.Tensor) -> torch.Tensor:
    """Logits ``[N, 1]``."""

    def conv(name: str, x: torch.Tensor, stride: int = 1, padding: int = 0) -> torch.Tensor:
        weight = state[name]
        return F.conv2d(x, weight / math.sqrt(weight[0].numel()), stride=stride, padding=padding)

    def biased(name: str, x: torch.Tensor) -> torch.Tensor:
        return _lrelu(x + state[name].view(1, -1, 1, 1))

    x = biased("convs.0.1.bias", conv("convs.0.0.weight", images))
    for i in range(1, 1 + sum(name.endswith("skip.1.weight") for name in state)):
        y = biased(f"convs.{i}.conv1.1.bias", conv(f"convs.{i}.conv1.0.weight", x, padding=1))
        y = _fir(y, state[f"convs.{i}.conv2.0.kernel"], (2, 2))
        y = biased(f"convs.{i}.conv2.2.bias", conv(f"convs.{i}.conv2.1.weight", y, stride=2))
        skip = conv(f"convs.{i}.skip.1.weight", _fir(x, state[f"convs.{i}.skip.0.kernel"], (1, 1)), stride=2)
        x = (y + skip) / math.sqrt(2)
    x = biased("final_conv.1.bias", conv("final_conv.0.weight", _minibatch_std(x), padding=1))
    x = x.flatten(1)
    for i, activate in ((0, True), (1, False)):
        weight = state[f"final_linear.{i}.weight"]
        x = x @ (weight / math.sqrt(weight.shape[1])).t() + state[f"final_linear.{i}.bias"]
        x = _lrelu(x) if activate else x
    return x


# ---------------------------------------------------------------- TensorFlow


def tensorflow_generator(seed: int, channels: list[int], labels: int = 0, w_dim: int = 12, layers: int = 2) -> Tensors:
    """Random variables of Gs, those of its components under ``G_mapping/`` and ``G_synthesis/``."""
    g = torch.Generator().manual_seed(seed)
    state: Tensors = {"dlatent_avg": 0.3 * _randn(g, w_dim)}
    if labels:
        state["G_mapping/LabelEmbed/weight"] = _randn(g, labels, w_dim)
        state["G_mapping/LabelEmbed/bias"] = 0.1 * _randn(g, w_dim)
    for i in range(layers):
        width = w_dim * 2 if labels and i == 0 else w_dim
        state[f"G_mapping/Dense{i}/weight"] = _randn(g, width, w_dim) / 0.01
        state[f"G_mapping/Dense{i}/bias"] = _randn(g, w_dim) / 0.01 * 0.1

    def layer(name: str, c_in: int, c_out: int, size: int, noise: bool) -> None:
        name = f"G_synthesis/{name}"
        state[f"{name}/weight"] = _randn(g, size, size, c_in, c_out)
        state[f"{name}/mod_weight"] = _randn(g, w_dim, c_in)
        state[f"{name}/mod_bias"] = 0.3 * _randn(g, c_in)
        state[f"{name}/bias"] = 0.2 * _randn(g, c_out)
        if noise:
            state[f"{name}/noise_strength"] = 0.3 * _randn(g)

    state["G_synthesis/4x4/Const/const"] = _randn(g, 1, channels[0], 4, 4)
    layer("4x4/Conv", channels[0], channels[0], 3, noise=True)
    layer("4x4/ToRGB", channels[0], 3, 1, noise=False)
    for i, (c_in, c_out) in enumerate(zip(channels, channels[1:], strict=False)):
        side = 8 << i
        layer(f"{side}x{side}/Conv0_up", c_in, c_out, 3, noise=True)
        layer(f"{side}x{side}/Conv1", c_out, c_out, 3, noise=True)
        layer(f"{side}x{side}/ToRGB", c_out, 3, 1, noise=False)
    for i in range(2 * len(channels) - 1):
        side = 2 ** (i // 2 + 2 + i % 2)
        state[f"G_synthesis/noise{i}"] = _randn(g, 1, 1, side, side)
    return state


def _conv_hwio(x: torch.Tensor, weight: torch.Tensor, stride: int = 1, padding: int = 0) -> torch.Tensor:
    return F.conv2d(x, weight.permute(3, 2, 0, 1), stride=stride, padding=padding)


def _up_conv_hwio(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Transposed convolution with the kernel turned round: the gradient of a strided correlation with it."""
    n, c, h, w = x.shape
    wide = torch.zeros(n, c, 2 * h - 1, 2 * w - 1)
    wide[:, :, ::2, ::2] = x
    # The transposed convolution with the turned kernel is the plain correlation with the kernel on the widened image
    return _conv_hwio(F.pad(wide, [2, 2, 2, 2]), weight)


def tensorflow_w(state: Tensors, z: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
    """``w`` of ``z``, with one-hot ``labels`` as stylegan2-ada takes them."""

    def normal(x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)

    x = normal(z)
    if labels is not None:
        weight = state["G_mapping/LabelEmbed/weight"]
        y = labels @ weight / math.sqrt(weight.shape[0]) + state["G_mapping/LabelEmbed/bias"]
        x = torch.cat([x, normal(y)], dim=1)
    for i in range(sum("/Dense" in name for name in state) // 2):
        weight, bias = state[f"G_mapping/Dense{i}/weight"], state[f"G_mapping/Dense{i}/bias"]
        x = _lrelu(x @ (weight * (0.01 / math.sqrt(weight.shape[0]))) + bias * 0.01)
    return x


def tensorflow_picture(
    state: Tensors, z: torch.Tensor, truncation: float, labels: torch.Tensor | None = None, clamp: float = math.inf
) -> torch.Tensor:
    """Images of ``z`` with the stored noise, each sample by itself; convolutions are cut off at ``clamp``."""
    mean = state["dlatent_avg"]
    ws = mean + (tensorflow_w(state, z, labels) - mean) * truncation
    return torch.cat([_tensorflow_sample(state, w[None], clamp) for w in ws])


def _cut(x: torch.Tensor, clamp: float) -> torch.Tensor:
    return torch.where(x.abs() > clamp, x.sign() * clamp, x)


def _tensorflow_sample(state: Tensors, w: torch.Tensor, clamp: float) -> torch.Tensor:
    def modulated(name: str, x: torch.Tensor, demodulate: bool, up: bool = False) -> torch.Tensor:
        weight, mod = state[f"{name}/weight"], state[f"{name}/mod_weight"]
        style = w @ mod / math.sqrt(mod.shape[0]) + state[f"{name}/mod_bias"] + 1
        weight = weight / math.sqrt(weight[..., 0].numel()) * style.reshape(1, 1, -1, 1)
        if demodulate:
            weight = weight * torch.rsqrt(weight.square().sum([0, 1, 2]) + 1e-8)
        if up:
            return _fir(_up_conv_hwio(x, weight), _unit_kernel() * 4, (1, 1))
        return _conv_hwio(x, weight, padding=weight.shape[0] // 2)

    def layer(name: str, x: torch.Tensor, index: int, up: bool = False) -> torch.Tensor:
        x = modulated(name, x, True, up)
        x = x + state[f"G_synthesis/noise{index}"] * state[f"{name}/noise_strength"]
        return _cut(_lrelu(x + state[f"{name}/bias"].reshape(1, -1, 1, 1)), clamp)

    def to_rgb(name: str, x: torch.Tensor) -> torch.Tensor:
        return _cut(modulated(name, x, False) + state[f"{name}/bias"].reshape(1, -1, 1, 1), clamp)

    x = layer("G_synthesis/4x4/Conv", state["G_synthesis/4x4/Const/const"], 0)
    image = to_rgb("G_synthesis/4x4/ToRGB", x)
    side = 8
    while f"G_synthesis/{side}x{side}/Conv1/weight" in state:
        name, index = f"G_synthesis/{side}x{side}", int(math.log2(side)) * 2 - 5
        x = layer(f"{name}/Conv0_up", x, index, up=True)
        x = layer(f"{name}/Conv1", x, index + 1)
        image = _fir(image, _unit_kernel() * 4, (2, 1), up=2) + to_rgb(f"{name}/ToRGB", x)
        side *= 2
    return image


def tensorflow_discriminator(seed: int, channels: list[int], labels: int = 0, layers: int = 0) -> Tensors:
    """Random variables of D; with ``labels`` those of stylegan2-ada, with ``layers`` layers after their embedding."""
    g = torch.Generator().manual_seed(seed)
    top, side = channels[0], 4 << (len(channels) - 1)
    state: Tensors = {"lod": torch.zeros(())}
    sizes: list[tuple[str, int, int, int]] = [(f"{side}x{side}/FromRGB", 1, 3, channels[-1])]
    for i in range(len(channels) - 1, 0, -1):
        name = f"{4 << i}x{4 << i}"
        sizes += [
            (f"{name}/Conv0", 3, channels[i], channels[i]),
            (f"{name}/Conv1_down", 3, channels[i], channels[i - 1]),
        ]
        state[f"{name}/Skip/weight"] = _randn(g, 1, 1, channels[i], channels[i - 1])
    sizes.append(("4x4/Conv", 3, top + 1, top))
    for name, size, c_in, c_out in sizes:
        state[f"{name}/weight"] = _randn(g, size, size, c_in, c_out)
        state[f"{name}/bias"] = 0.1 * _randn(g, c_out)
    dense = [("4x4/Dense0", top * 16, top), ("Output", top, top if labels else 1)]
    if labels:
        dense += [("LabelEmbed", labels, top), *((f"Mapping{i}", top, top) for i in range(layers))]
    for name, c_in, c_out in dense:
        scale = 10 if name.startswith("Mapping") else 1
        state[f"{name}/weight"] = _randn(g, c_in, c_out) * scale
        state[f"{name}/bias"] = 0.1 * _randn(g, c_out) * scale
    return state


def tensorflow_scores(
    state: Tensors, images: torch.Tensor, labels: torch.Tensor | None = None, clamp: float = math.inf
) -> torch.Tensor:
    """Logits ``[N, 1]``; what a convolution with an activation gives is cut off at ``clamp``."""

    def conv(name: str, x: torch.Tensor, padding: int = 0, stride: int = 1) -> torch.Tensor:
        weight = state[f"{name}/weight"]
        return _conv_hwio(x, weight / math.sqrt(weight[..., 0].numel()), stride, padding)

    def bias(name: str, x: torch.Tensor) -> torch.Tensor:
        return _cut(_lrelu(x + state[f"{name}/bias"].reshape(1, -1, 1, 1)), clamp)

    def dense(name: str, x: torch.Tensor, lr: float = 1.0) -> torch.Tensor:
        weight = state[f"{name}/weight"]
        return x @ (weight * (lr / math.sqrt(weight.shape[0]))) + state[f"{name}/bias"] * lr

    side = images.shape[2]
    x = bias(f"{side}x{side}/FromRGB", conv(f"{side}x{side}/FromRGB", images))
    while side > 4:
        name = f"{side}x{side}"
        y = bias(f"{name}/Conv0", conv(f"{name}/Conv0", x, padding=1))
        y = conv(f"{name}/Conv1_down", _fir(y, _unit_kernel(), (2, 2)), stride=2)
        y = bias(f"{name}/Conv1_down", y)
        skip = conv(f"{name}/Skip", _fir(x, _unit_kernel(), (1, 1)), stride=2)
        x, side = (y + skip) / math.sqrt(2), side // 2
    x = bias("4x4/Conv", conv("4x4/Conv", _minibatch_std(x), padding=1))
    x = dense("Output", _lrelu(dense("4x4/Dense0", x.flatten(1))))
    if labels is not None:
        y = dense("LabelEmbed", labels)
        y = y * torch.rsqrt(y.square().mean(1, keepdim=True) + 1e-8)
        for i in range(sum(name.startswith("Mapping") for name in state) // 2):
            y = _lrelu(dense(f"Mapping{i}", y, lr=0.1))
        x = (x * y).sum(1, keepdim=True) / math.sqrt(y.shape[1])
    return x
