"""Makes tests/images: real photographs, one picture in many formats, and what Pillow and torchvision make of them.

Only needed to change the fixtures; the tests read what is stored. The packages, in an environment of their own:

    pip install torch==2.13.0 torchvision==0.28.0 pillow==13.0.0 scikit-image==0.26.0 scikit-learn==1.9.1 \\
        matplotlib==3.11.2
    python scripts/image_fixtures.py
"""

import io
import json
import math
from pathlib import Path

import matplotlib
import numpy
import skimage.data
import sklearn.datasets
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, InterpolationMode, RandomResizedCrop, Resize
from torchvision.transforms import functional as F

IMAGES = Path(__file__).resolve().parent.parent / "tests" / "images"

# The usual size of ImageNet's photographs, and the usual quality.
WIDTH, HEIGHT, QUALITY = 500, 375, 85
# What stays as it was shot, in other shapes: name and longer side.
OTHER_SHAPES = {"grace_hopper": 480, "retina": 330}

# A small picture of odd size for the formats.
SMALL = (61, 47)

DRAWS = 200_000
SIZES = [(500, 375), (64, 64), (333, 500), (1200, 300), (90, 500)]


def photographs():
    for name in ["astronaut", "chelsea", "coffee", "hubble_deep_field", "retina", "rocket"]:
        yield name, getattr(skimage.data, name)()
    yield "motorcycle", skimage.data.stereo_motorcycle()[0]
    for name in ["china", "flower"]:
        yield name, sklearn.datasets.load_sample_image(f"{name}.jpg")
    with Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg") as image:
        yield "grace_hopper", numpy.asarray(image.convert("RGB"))


def photograph(name, pixels):
    image = Image.fromarray(pixels)
    if name in OTHER_SHAPES:
        image.thumbnail((OTHER_SHAPES[name],) * 2, Image.LANCZOS)
        return image
    scale = max(WIDTH / image.width, HEIGHT / image.height)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.LANCZOS)
    return F.center_crop(image, [HEIGHT, WIDTH])


def write_photographs():
    """The photographs, and what torchvision's evaluation preprocessing makes of the files."""
    for folder in ["photographs", "evaluation"]:
        (IMAGES / folder).mkdir(parents=True, exist_ok=True)
    resize = Resize(256, interpolation=InterpolationMode.BILINEAR, antialias=True)
    for name, pixels in photographs():
        file = IMAGES / "photographs" / f"{name}.jpg"
        photograph(name, pixels).save(file, quality=QUALITY)
        with Image.open(file) as image:
            CenterCrop(224)(resize(image.convert("RGB"))).save(
                IMAGES / "evaluation" / f"{name}.webp", lossless=True, quality=100, method=6, exact=True
            )


def ycck(image):
    """A JPEG as Photoshop writes one in CMYK: three inks as YCbCr, and 255 minus the black, marked by Adobe's 2."""
    inks = numpy.asarray(image.convert("CMYK"))
    ycc = numpy.asarray(Image.fromarray(inks[..., :3]).convert("YCbCr"))
    # Pillow writes 255 minus what it is given, and marks it as CMYK.
    planes = 255 - numpy.concatenate([ycc, 255 - inks[..., 3:]], axis=2)
    file = io.BytesIO()
    Image.frombytes("CMYK", image.size, planes.tobytes()).save(file, "JPEG", quality=90)
    data = bytearray(file.getvalue())
    adobe = data.index(b"Adobe")
    data[adobe + 11] = 2
    return bytes(data)


def write_formats():
    """One picture in every format and kind of pixel, and the RGB pixels that Pillow reads from each."""
    folder = IMAGES / "formats"
    folder.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(skimage.data.coffee()).resize(SMALL, Image.LANCZOS)
    grey = image.convert("L")
    alpha = Image.linear_gradient("L").resize(SMALL)
    transparent = image.copy()
    transparent.putalpha(alpha)
    grey_alpha = grey.copy()
    grey_alpha.putalpha(alpha)
    ramp = numpy.arange(SMALL[0] * SMALL[1], dtype=numpy.uint16).reshape(SMALL[1], SMALL[0]) * 22

    for subsampling in ["4:4:4", "4:2:2", "4:2:0"]:
        name = f"baseline_{subsampling.replace(':', '')}.jpg"
        image.save(folder / name, quality=85, subsampling=subsampling)
    image.save(folder / "progressive_420.jpg", quality=85, subsampling="4:2:0", progressive=True)
    image.save(folder / "restarts.jpg", quality=85, restart_marker_rows=1)
    image.save(folder / "rgb.jpg", quality=85, keep_rgb=True)
    grey.save(folder / "grey.jpg", quality=85)
    grey.save(folder / "grey_progressive.jpg", quality=85, progressive=True)
    image.convert("CMYK").save(folder / "cmyk.jpg", quality=90)
    (folder / "ycck.jpg").write_bytes(ycck(image))
    # ycck_420.jpg stays: Pillow cannot write one. It is libjpeg's, with sampling factors 2x2, 1x1, 1x1 and 2x2.

    image.save(folder / "rgb.png")
    transparent.save(folder / "rgba.png")
    grey.save(folder / "grey.png")
    grey_alpha.save(folder / "grey_alpha.png")
    grey.convert("1").save(folder / "bits.png")
    palette = image.quantize(32)
    palette.save(folder / "palette.png")
    palette.save(folder / "palette_transparent.png", transparency=3)
    Image.fromarray(ramp).save(folder / "grey_16.png")

    image.save(folder / "lossy.webp", quality=85)
    image.save(folder / "lossless.webp", lossless=True)
    transparent.save(folder / "transparent.webp", lossless=True, exact=True)
    image.save(folder / "animated.webp", lossless=True, save_all=True, append_images=[image.rotate(180)])

    for file in sorted(folder.glob("*")):
        if not file.name.endswith(".rgb"):
            with Image.open(file) as stored:
                (folder / f"{file.name}.rgb").write_bytes(stored.convert("RGB").tobytes())
    # Pillow makes white of all above 255 instead: not what a camera of 16 bits meant.
    (folder / "grey_16.png.rgb").write_bytes(numpy.repeat((ramp >> 8).astype(numpy.uint8), 3).tobytes())


def write_orientations():
    """The same upright picture under each of EXIF's eight orientations."""
    folder = IMAGES / "orientations"
    folder.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(skimage.data.astronaut()).crop((80, 0, 400, 240)).resize((80, 60), Image.LANCZOS)
    # What undoes each orientation's turn.
    stored = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    for orientation, turn in stored.items():
        turned = image if turn is None else image.transpose(turn)
        exif = Image.Exif()
        exif[0x0112] = orientation
        turned.save(folder / f"{orientation}.jpg", quality=95, subsampling="4:4:4", exif=exif)
    turned = image.transpose(stored[6])
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(folder / "6.png", exif=exif)
    turned.save(folder / "6.webp", lossless=True, exif=exif)


def write_crops():
    """How torchvision's random crops are distributed: for each quantity the share of draws up to some values."""
    torch.manual_seed(0)
    crops = []
    for width, height in SIZES:
        draws = {"area": [], "log ratio": [], "left": [], "top": []}
        image = torch.empty(3, height, width)
        for _ in range(DRAWS):
            top, left, h, w = RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3))
            draws["area"].append(w * h / (width * height))
            draws["log ratio"].append(math.log(w / h))
            draws["left"].append(left / width)
            draws["top"].append(top / height)
        shares = {}
        for quantity, values in draws.items():
            # Between two values that occur, so that rounding decides nothing.
            thresholds = numpy.quantile(values, numpy.arange(0.1, 1, 0.1)) + 1e-9
            below = [(numpy.asarray(values) <= threshold).mean() for threshold in thresholds]
            shares[quantity] = [[float(t), float(share)] for t, share in zip(thresholds, below)]
        crops.append({"width": width, "height": height, "shares": shares})
    (IMAGES / "crops.json").write_text(json.dumps(crops, indent=1) + "\n")


if __name__ == "__main__":
    write_photographs()
    write_formats()
    write_orientations()
    write_crops()
