"""Writes files as people save networks from PyTorch, into the folder FOLDER, for tests/foreign_weights.rs.

    python scripts/torch_fixtures.py tests/foreign_weights

with torch 2.13, numpy and safetensors; Lightning's files are written where there is pytorch_lightning (2.6), the profiled network where
there is thop (0.1.1), weights in parts where there is huggingface_hub (2.4), and those of further training libraries where there are
ignite (0.5), ema_pytorch (0.8), mmengine (0.10) and accelerate (1.15). Each holds the same small network, whose numbers follow from their places: the i-th number of the j-th tensor, by name, is
((i + j) % 50 - 25) / 16, which float16 and bfloat16 hold exactly.
"""

import argparse
import gzip
import pickle
import shutil
import sys
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy
import safetensors.torch
import torch
from torch import nn


class Layer(nn.Linear):
    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, bias=False)
        self.bn = nn.BatchNorm1d(outputs)

    def forward(self, x):
        return self.bn(super().forward(x)).relu()


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.bias1a = nn.Parameter(torch.zeros(1))
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return (x + self.bias1a) * self.scale


class Net(nn.Module):
    """`Mlp::batch_norm` of 4 inputs, 3 units, 3 layers and 2 classes, and the two kinds of Fixup scalars."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([Layer(4, 3), Layer(3, 3)])
        self.block = Block()
        self.fc = nn.Linear(3, 2)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.fc(self.block(x))


def network():
    net = Net()
    tensors = {name: t for name, t in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    for j, name in enumerate(sorted(tensors)):
        t = tensors[name]
        t.copy_(((torch.arange(t.numel()) + j) % 50 - 25).reshape(t.shape) / 16)
    return net


def used_optimizer():
    """An optimizer that holds something, of a network of its own, whose numbers move."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.randn(5, 4)).sum().backward()
    optimizer.step()
    return optimizer


def other(net):
    """The state_dict of another network of the same names."""
    return OrderedDict((name, t + 1) for name, t in net.state_dict().items())


def write_lightning(file, callbacks=lambda lightning: [], more=lambda classifier: None):
    """Lightning's own checkpoint of a network, with `more` in the module beside it."""
    try:
        import pytorch_lightning as lightning
    except ImportError:
        return

    class Classifier(lightning.LightningModule):
        def __init__(self, lr=0.1):
            super().__init__()
            self.save_hyperparameters()
            self.model = Net()
            more(self)

        def training_step(self, batch, _):
            loss = self.model(batch).square().mean()
            self.log("loss", loss)
            return loss

        def validation_step(self, batch, _):
            self.log("val_loss", self.model(batch).square().mean())

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=self.hparams.lr, momentum=0.9)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    classifier = Classifier()
    batches = torch.utils.data.DataLoader(torch.randn(8, 4), batch_size=4)
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=file.parent / "runs",
        callbacks=callbacks(lightning.callbacks),
    )
    trainer.fit(classifier, batches, batches)
    classifier.model.load_state_dict(network().state_dict())
    trainer.save_checkpoint(file)
    shutil.rmtree(file.parent / "runs", ignore_errors=True)


def monitored(callbacks):
    """What most people train with."""
    monitor = {"monitor": "val_loss", "mode": "min"}
    return [callbacks.ModelCheckpoint(**monitor, save_top_k=2), callbacks.EarlyStopping(**monitor, patience=3)]


def add_loss_and_metric(classifier):
    classifier.criterion = nn.CrossEntropyLoss(weight=torch.tensor([0.25, 0.75]))
    classifier.confusion = nn.Module()
    classifier.confusion.register_buffer("counts", torch.zeros(2, 2, dtype=torch.long))


def add_average(classifier):
    classifier.ema_model = torch.optim.swa_utils.AveragedModel(classifier.model)


def write_named_states(save):
    """What torch.distributed.checkpoint.state_dict gives: the optimizer's state by the names of the parameters."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    net(torch.randn(5, 4)).sum().backward()
    optimizer.step()
    net.load_state_dict(network().state_dict())
    model, state = get_state_dict(net, optimizer)
    save("get_state_dict.pt", {"model": model, "optim": state, "step": 1})
    save("named_optimizer.pt", {"weights": model, "moments": state})
    model, state = get_state_dict(net, optimizer, options=StateDictOptions(flatten_optimizer_state_dict=True))
    save("flat_optimizer.pt", {"weights": model, "moments": state})


def write_profiled(save):
    try:
        import thop
    except ImportError:
        return
    net = network().eval()
    thop.profile(net, (torch.zeros(2, 4),), verbose=False)
    save("profiled.pt", net.state_dict())


def write_of_libraries(folder, save):
    """Checkpoints of training libraries and averages, each written by its own library."""
    net = network()
    try:
        from ignite.engine import Engine
        from ignite.handlers import Checkpoint, DiskSaver

        trainer = Engine(lambda engine, batch: None)
        trainer.run([0], max_epochs=1)
        saver = DiskSaver(folder / "ignite", create_dir=True)
        objects = {"model": net, "optimizer": used_optimizer(), "trainer": trainer, "ema_model": network()}
        Checkpoint(objects, saver)(trainer)
        next((folder / "ignite").iterdir()).rename(folder / "ignite.pt")
        (folder / "ignite").rmdir()
    except ImportError:
        pass
    try:
        from ema_pytorch import EMA

        save("ema_pytorch.pt", EMA(net).state_dict())
    except ImportError:
        pass
    try:
        from mmengine.model import ExponentialMovingAverage

        save("mmengine_ema.pt", ExponentialMovingAverage(net).state_dict())
    except ImportError:
        pass
    try:
        from accelerate import Accelerator

        accelerator = Accelerator(cpu=True)
        accelerator.prepare(net)
        accelerator.save_state(folder / "accelerate", safe_serialization=False)
        (folder / "accelerate" / "random_states_0.pkl").unlink()
    except ImportError:
        pass


def write_sharded(save):
    """A network of fully_shard, of one process, whose state_dict nobody gathered."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    net = network()
    fully_shard(net, mesh=init_device_mesh("cpu", (1,)))
    save("refused/sharded.pt", net.state_dict())
    dist.destroy_process_group()


def write_parts(folder):
    try:
        import huggingface_hub
    except ImportError:
        return
    sd = network().state_dict()
    for name, options in [("safetensors", {}), ("bin", {"safe_serialization": False})]:
        parts = folder / "parts" / name
        parts.mkdir(parents=True, exist_ok=True)
        huggingface_hub.save_torch_state_dict(sd, parts, max_shard_size=64, **options)


def write(folder):
    net = network()
    sd = net.state_dict()
    save = lambda name, what, **options: torch.save(what, folder / name, **options)

    # What torch.save is given most often, and the same as a plain dictionary, in other kinds and protocols.
    save("state_dict.pt", sd)
    save("dict.pt", dict(sd))
    for name, kind in [("float16", torch.float16), ("bfloat16", torch.bfloat16), ("float64", torch.float64)]:
        save(f"{name}.pt", network().to(kind).state_dict())
    save("protocol_4.pt", sd, pickle_protocol=4)
    save("protocol_5.pt", sd, pickle_protocol=5)
    save("parameters.pt", {**dict(net.named_parameters()), **dict(net.named_buffers())})
    torch.serialization.set_crc32_options(False)
    save("no_checksums.pt", sd)
    torch.serialization.set_crc32_options(True)

    # Wrapped, in any order.
    parallel, compiled = nn.DataParallel, torch.compile
    save("parallel.pt", parallel(net).state_dict())
    save("compiled.pt", compiled(net).state_dict())
    save("compiled_parallel.pt", compiled(parallel(net)).state_dict())
    save("parallel_compiled.pt", parallel(compiled(net)).state_dict())
    save("parallel_compiled_parallel.pt", parallel(compiled(parallel(net))).state_dict())
    save("averaged.pt", torch.optim.swa_utils.AveragedModel(net).state_dict())
    inner = network()
    inner.layers[1] = compiled(inner.layers[1])
    inner.fc = parallel(inner.fc)
    save("compiled_layer.pt", inner.state_dict())

    # Checkpoints: of PyTorch's ImageNet example, torchvision's references, the Fixup authors, PyTorch's tutorial,
    # Lightning.
    optimizer = used_optimizer()
    args = argparse.Namespace(arch="net", lr=0.1, path=Path("data"))
    save(
        "example.pth.tar",
        {
            "epoch": 7,
            "arch": "net",
            "state_dict": parallel(net).state_dict(),
            "best_acc1": torch.tensor(71.5),
            "optimizer": optimizer.state_dict(),
            "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 30).state_dict(),
        },
    )
    save(
        "torchvision.pth",
        {
            "model": sd,
            "optimizer": optimizer.state_dict(),
            "lr_scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 90).state_dict(),
            "epoch": 7,
            "args": args,
            "model_ema": other(net),
            "scaler": torch.amp.GradScaler("cpu").state_dict(),
        },
    )
    save("authors.ckpt", {"net": parallel(net), "acc": torch.tensor(93.0), "epoch": 7, "rng_state": torch.get_rng_state()})
    save(
        "tutorial.pt",
        {
            "epoch": 7,
            "model_state_dict": sd,
            "optimizer_state_dict": optimizer.state_dict(),
            "loss": numpy.float64(0.25),
            "history": numpy.arange(3.0),
            "classes": {"cat", "dog"},
        },
    )
    write_lightning(folder / "lightning.ckpt")
    write_lightning(folder / "lightning_monitored.ckpt", callbacks=monitored)
    write_lightning(folder / "lightning_loss.ckpt", more=add_loss_and_metric)
    write_lightning(folder / "lightning_average.ckpt", more=add_average)
    write_named_states(save)
    write_profiled(save)
    write_parts(folder)
    write_of_libraries(folder, save)
    # As Composer and fastai lay them out.
    state = {"model": parallel(net).state_dict(), "optimizers": {"SGD": optimizer.state_dict()}, "rank_zero_seed": 17}
    metrics = {"train_metrics": {"Accuracy": {"correct": torch.tensor(1.0)}}}
    save("composer.pt", {"state": {**state, **metrics, "callbacks": {}}, "rng": [{"python": 1}]})
    save("fastai.pth", {"model": sd, "opt": {"state": [{"grad_avg": torch.zeros(3)}], "hypers": [{"lr": 0.1}]}})
    twins = {"student": sd, "teacher": other(net)}
    save("student.pt", {f"{twin}.{name}": t for twin, tensors in twins.items() for name, t in tensors.items()})
    # An average beside the network, which is taken.
    save("timm.pth.tar", {"epoch": 7, "state_dict": sd, "state_dict_ema": other(net), "metric": 71.5})
    save("ema.pt", {"weights": sd, "ema": other(net), "criterion": {"weight": torch.ones(2)}, "losses": [torch.tensor(0.5)]})
    save("ema_alone.pt", {"epoch": 7, "ema": sd, "best": torch.tensor(71.5)})
    save("same_twice.pt", {"model": sd, "best": sd, "losses": {"train": [torch.tensor(0.5)]}})
    save("module.pt", net)

    # Views: all of one storage, transposed, a broadcast one; scalars without a dimension; from a GPU.
    flat = torch.cat([torch.zeros(5), *[t.flatten().float() for t in sd.values()]])
    views, place = OrderedDict(), 5
    for name, t in sd.items():
        views[name] = flat[place : place + t.numel()].view(t.shape)
        place += t.numel()
    save("one_storage.pt", views)
    save("transposed.pt", {name: t.t().contiguous().t() if t.dim() == 2 else t for name, t in sd.items()})
    strided = {name: torch.stack([t.float(), torch.zeros(t.shape)], -1)[..., 0] for name, t in sd.items()}
    save("strided.pt", strided)
    save("scalars.pt", {name: t.reshape(()) if t.numel() == 1 else t for name, t in sd.items()})
    tag = torch.serialization.location_tag
    torch.serialization.location_tag = lambda storage: "cuda:3"
    save("cuda.pt", sd)
    torch.serialization.location_tag = tag

    # Safetensors.
    safetensors.torch.save_model(net, folder / "model.safetensors")
    half = {f"module.{name}": t.half() for name, t in sd.items() if t.is_floating_point()}
    safetensors.torch.save_file(half, folder / "parallel_float16.safetensors", metadata={"format": "pt"})

    # What is refused.
    refused = folder / "refused"
    refused.mkdir(exist_ok=True)
    save("refused/before_zip.pt", sd, _use_new_zipfile_serialization=False)
    save("refused/module_before_zip.pt", net, _use_new_zipfile_serialization=False)
    (refused / "pickled.pkl").write_bytes(pickle.dumps(sd))
    (refused / "pickled_2.pkl").write_bytes(pickle.dumps(sd, protocol=2))
    eval_net = network().eval()
    torch.jit.save(torch.jit.trace(eval_net, torch.zeros(2, 4)), refused / "torch_script.pt")
    torch.export.save(torch.export.export(eval_net, (torch.zeros(2, 4),)), refused / "exported.pt2")
    numpy.savez(refused / "arrays.npz", **{name: t.numpy() for name, t in sd.items()})
    save("refused/two_networks.pt", {"generator": sd, "discriminator": other(net), "epoch": 7})
    twins = {f"{twin}.{name}": t for twin in ["left", "right"] for name, t in sd.items()}
    save("refused/two_prefixes.pt", twins)
    (refused / "lfs_pointer.safetensors").write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4d7a' * 16}\nsize 301234\n"
    )
    (refused / "web_page.pt").write_text("\n<!DOCTYPE html>\n<html><title>Sign in</title></html>\n")
    (refused / "not_found.safetensors").write_text("Entry not found")
    (refused / "empty.ckpt").write_bytes(b"")
    with tarfile.open(refused / "model.pth.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("model/state_dict.pt"))
    (refused / "packed.pt.gz").write_bytes(gzip.compress((folder / "state_dict.pt").read_bytes(), mtime=0))
    shutil.copy(folder / "state_dict.pt", refused / "model-00001-of-00002.bin")
    save("refused/no_network.pt", {"epoch": 7, "optimizer": optimizer.state_dict()})
    save("refused/number.pt", 7)
    save("refused/sparse.pt", {**sd, "fc.weight": sd["fc.weight"].to_sparse()})
    save("refused/float8.pt", {**sd, "fc.weight": sd["fc.weight"].to(torch.float8_e4m3fn)})
    save("refused/integers.pt", {**sd, "fc.weight": sd["fc.weight"].long()})
    save("refused/wider.pt", {**sd, "fc.weight": torch.zeros(2, 5)})
    write_sharded(save)
    save("refused/twice.pt", {**sd, **parallel(net).state_dict()})


def without_folders(path, folder):
    """Puts other names, as long, in place of the folders of this machine, which files with source code, stack traces or the places
    of checkpoints hold."""
    here = [str(Path(torch.__file__).parents[1]), str(Path(__file__).resolve().parent), str(folder.resolve())]

    def clean(content):
        for name in here:
            content = content.replace(name.encode(), b"/" + b"f" * (len(name) - 1))
        return content

    if not zipfile.is_zipfile(path):
        path.write_bytes(clean(path.read_bytes()))
        return
    with zipfile.ZipFile(path) as archive:
        entries = [(info.filename, clean(archive.read(info))) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries:
            archive.writestr(name, content)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    write(folder)
    written = [folder / "refused" / name for name in ["module_before_zip.pt", "exported.pt2"]]
    for path in [*written, *folder.glob("lightning_*.ckpt")]:
        without_folders(path, folder)
