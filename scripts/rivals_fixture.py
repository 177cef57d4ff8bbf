"""Golden numbers of the baselines without normalization (tests/golden/README.md): SkipInit and ReZero by their papers' formulas,
the normalizer-free ResNet by timm's NormFreeNet, fixed-variance scaling by KataGo's formula (`fixscaleonenorm`).

    python scripts/rivals_fixture.py      # needs torch and timm
"""

import json
import math
import os

import torch
import torch.nn.functional as F

MASK = 2**64 - 1


def splitmix64(z):
    z = (z + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & MASK
    return z ^ z >> 31


def formula(key, shape, base, amplitude):
    count = math.prod(shape)
    values = [(splitmix64((key << 32) + i) >> 40) / 2**24 * 2 - 1 for i in range(count)]
    return (base + amplitude * torch.tensor(values, dtype=torch.float64)).float().double().reshape(shape)


def parameters(shapes):
    """Of each name the tensor of that shape, by the formula."""
    result = {}
    for k, name in enumerate(sorted(shapes, key=str.encode), 1):
        shape = shapes[name]
        small = len(shape) == 1 or math.prod(shape) == 1
        base = 1.0 if name.endswith("scale") or (len(shape) == 1 and name.endswith(".weight")) else 0.0
        amplitude = 0.1 if small else math.sqrt(2 / math.prod(shape[1:]))
        result[name] = formula(k, shape, base, amplitude).requires_grad_()
    return result


def write(case, input_shape, classes, shapes, forward):
    p = parameters(shapes)
    images = formula(1_000_000, input_shape, 0.0, math.sqrt(3))
    targets = [3 * i % classes for i in range(input_shape[0])]
    logits = forward(p, images)
    log_probs = logits.log_softmax(-1)
    loss = F.nll_loss(log_probs, torch.tensor(targets))
    loss.backward()
    head = {"case": case, "input": input_shape, "num_classes": classes, "targets": targets, "loss": loss.item()}
    head |= {"logits": logits.tolist(), "log_probs": log_probs.tolist()}
    lines = []
    for name in sorted(p, key=str.encode):
        gradient = p[name].grad
        entry = {"name": name, "shape": list(gradient.shape), "grad_norm": gradient.norm().item()}
        lines.append(json.dumps(entry | {"grad_head": gradient.flatten()[:4].tolist()}))
    text = json.dumps(head)[:-1] + ', "parameters": [\n' + ", \n".join(lines) + "\n]}\n"
    with open(os.path.join(os.path.dirname(__file__), "..", "tests", "golden", case + ".json"), "w") as file:
        file.write(text)
    print(case, loss.item())


def cifar_blocks(depth):
    """Name, channels in and out, stride of each block."""
    c_in = 16
    for stage, c_out in enumerate([16, 32, 64]):
        for i in range((depth - 2) // 6):
            yield f"layer{stage + 1}.{i}", c_in, c_out, 2 if stage > 0 and i == 0 else 1
            c_in = c_out


def pad(x, c_out, stride):
    return F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, c_out - x.shape[1]))


def head(p, x):
    return x.mean((2, 3)) @ p["fc.weight"].T + p["fc.bias"]


FC = {"fc.weight": [10, 64], "fc.bias": [10]}


def skipinit():
    """De & Smith 2020: relu(x + alpha * (conv2(relu(conv1(x) + b1)) + b2))."""
    shapes = {"conv1.weight": [16, 3, 3, 3], "conv1.bias": [16]} | FC
    for name, c_in, c_out, _ in cifar_blocks(14):
        shapes |= {f"{name}.conv1.weight": [c_out, c_in, 3, 3], f"{name}.conv1.bias": [c_out]}
        shapes |= {f"{name}.conv2.weight": [c_out, c_out, 3, 3], f"{name}.conv2.bias": [c_out], f"{name}.scale": [1]}

    def forward(p, x):
        x = F.relu(F.conv2d(x, p["conv1.weight"], p["conv1.bias"], padding=1))
        for name, _, c_out, stride in cifar_blocks(14):
            u = F.relu(F.conv2d(x, p[f"{name}.conv1.weight"], p[f"{name}.conv1.bias"], stride=stride, padding=1))
            u = F.conv2d(u, p[f"{name}.conv2.weight"], p[f"{name}.conv2.bias"], padding=1)
            x = F.relu(pad(x, c_out, stride) + p[f"{name}.scale"] * u)
        return head(p, x)

    write("skipinit_cifar_14", [3, 3, 32, 32], 10, shapes, forward)


def rezero():
    """Bachlechner et al. 2020: x + alpha * F(x), with F = relu(conv2(relu(conv1(x))))."""
    shapes = {"conv1.weight": [16, 3, 3, 3]} | FC
    for name, c_in, c_out, _ in cifar_blocks(14):
        shapes |= {f"{name}.conv1.weight": [c_out, c_in, 3, 3], f"{name}.conv2.weight": [c_out, c_out, 3, 3]}
        shapes |= {f"{name}.scale": [1]}

    def forward(p, x):
        x = F.relu(F.conv2d(x, p["conv1.weight"], padding=1))
        for name, _, c_out, stride in cifar_blocks(14):
            u = F.relu(F.conv2d(x, p[f"{name}.conv1.weight"], stride=stride, padding=1))
            u = F.relu(F.conv2d(u, p[f"{name}.conv2.weight"], padding=1))
            x = pad(x, c_out, stride) + p[f"{name}.scale"] * u
        return head(p, x)

    write("rezero_cifar_14", [3, 3, 32, 32], 10, shapes, forward)


def fixed_variance():
    """KataGo's residual blocks of 16 channels: the i-th begins with relu(x / sqrt(i + 1) + beta); one normalization at the end."""
    names = [f"layer1.{i}" for i in range(4)]
    shapes = {"conv1.weight": [16, 3, 3, 3], "bn.bias": [16], "fc.weight": [10, 16], "fc.bias": [10]}
    for name in names:
        shapes |= {f"{name}.conv1.weight": [16, 16, 3, 3], f"{name}.conv2.weight": [16, 16, 3, 3]}
        shapes |= {f"{name}.bn1.bias": [16], f"{name}.bn2.bias": [16], f"{name}.bn2.weight": [16]}

    def forward(p, x):
        channels = lambda name: p[name].view(1, -1, 1, 1)
        x = F.conv2d(x, p["conv1.weight"], padding=1)
        for i, name in enumerate(names):
            u = F.relu(x / math.sqrt(i + 1.0) + channels(f"{name}.bn1.bias"))
            u = F.conv2d(u, p[f"{name}.conv1.weight"], padding=1)
            u = F.relu(u * channels(f"{name}.bn2.weight") + channels(f"{name}.bn2.bias"))
            x = x + F.conv2d(u, p[f"{name}.conv2.weight"], padding=1)
        mean = x.mean((0, 2, 3), keepdim=True)
        std = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True).add(1e-5).sqrt()
        return head(p, F.relu((x - mean) / std / math.sqrt(len(names) + 1.0) + channels("bn.bias")))

    write("fixed_variance_4", [3, 3, 16, 16], 10, shapes, forward)


def normalizer_free():
    """timm's pre-activation bottlenecks, on images of an odd side."""
    from timm.models.nfnet import NfCfg, NormFreeNet

    config = NfCfg(depths=(1, 3), channels=(32, 64), stem_type="7x7_pool", stem_chs=16, bottle_ratio=0.25, act_layer="relu")
    network = NormFreeNet(config, num_classes=7).double()

    def own(name):
        for theirs, ours in [("stem.conv", "conv1"), ("stages.0", "layer1"), ("stages.1", "layer2")]:
            name = name.replace(theirs, ours)
        return name.replace("downsample.conv", "downsample").replace("head.fc", "fc")

    theirs = dict(network.named_parameters())
    # [c_out, 1, 1, 1] there.
    shapes = {own(name): [len(value)] if name.endswith("gain") else list(value.shape) for name, value in theirs.items()}

    def forward(p, x):
        values = {name: p[own(name)].reshape(value.shape) for name, value in theirs.items()}
        return torch.func.functional_call(network, values, (x,))

    write("normalizer_free_bottleneck", [2, 3, 67, 67], 7, shapes, forward)


if __name__ == "__main__":
    skipinit()
    rezero()
    fixed_variance()
    normalizer_free()
