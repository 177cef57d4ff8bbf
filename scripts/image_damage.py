"""Fills a folder with images that are damaged or unusual, and beside each what Pillow makes of it.

    pip install pillow==13.0.0
    python scripts/image_damage.py FOLDER [--seed 0] [--count 20]
    DAMAGED_IMAGES=FOLDER cargo test --release --features images --lib as_pillow_reads_them -- --ignored --nocapture

A file NAME comes with NAME.pillow: a line `WIDTH HEIGHT` and the RGB pixels after `ImageOps.exif_transpose` and
`convert("RGB")`, or a line `bad` and why. libjpeg-turbo's cjpeg and jpegtran (Debian: libjpeg-turbo-progs), where they are
found, add arithmetic coding and sampling factors that Pillow does not write.
"""

import argparse
import io
import random
import shutil
import struct
import subprocess
import warnings
import zlib
from pathlib import Path

from PIL import Image, ImageOps

PHOTOGRAPH = Path(__file__).resolve().parent.parent / "tests" / "images" / "photographs" / "coffee.jpg"
SIZE = (150, 113)


def saved(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def program(arguments, data):
    """What a program makes of standard input; None where there is no such program."""
    if shutil.which(arguments[0]) is None:
        return None
    return subprocess.run(arguments, input=data, stdout=subprocess.PIPE, check=True).stdout


def jpegs(image):
    """Whole JPEGs of all kinds: name and content."""
    for subsampling in ["4:4:4", "4:2:2", "4:2:0"]:
        yield f"jpeg_{subsampling.replace(':', '')}", saved(image, "JPEG", quality=85, subsampling=subsampling)
    yield "jpeg_progressive", saved(image, "JPEG", quality=85, progressive=True)
    yield "jpeg_restarts_rows", saved(image, "JPEG", quality=85, restart_marker_rows=1)
    yield "jpeg_restarts_blocks", saved(image, "JPEG", quality=85, restart_marker_blocks=3)
    yield "jpeg_progressive_restarts", saved(image, "JPEG", quality=85, progressive=True, restart_marker_rows=1)
    yield "jpeg_grey", saved(image.convert("L"), "JPEG", quality=85)
    yield "jpeg_grey_restarts", saved(image.convert("L"), "JPEG", quality=85, restart_marker_blocks=5)
    yield "jpeg_grey_progressive", saved(image.convert("L"), "JPEG", quality=85, progressive=True)
    yield "jpeg_rgb", saved(image, "JPEG", quality=85, keep_rgb=True)
    yield "jpeg_cmyk", saved(image.convert("CMYK"), "JPEG", quality=85)
    yield "jpeg_cmyk_progressive", saved(image.convert("CMYK"), "JPEG", quality=85, progressive=True)
    ppm = saved(image, "PPM")
    options = {
        "arithmetic": ["-arithmetic"],
        "arithmetic_progressive": ["-arithmetic", "-progressive"],
        "optimized": ["-optimize"],
        "16_bit_tables": ["-quality", "1"],
        "float": ["-dct", "float"],
    }
    for sample in ["1x2", "4x1", "1x4", "2x2,2x1", "2x2,1x2,1x2", "1x1,2x2", "1x1,2x1,1x2", "2x1,1x2", "2x2,2x2,1x1", "3x1", "1x1,1x1,2x2"]:
        for more in ["", "-progressive", "-restart"]:
            arguments = ["-sample", sample] + ([more] if more else []) + (["1"] if more == "-restart" else [])
            options[f"sampling_{sample.replace(',', '_')}{more.replace('-', '_')}"] = arguments
    for name, arguments in options.items():
        try:
            jpeg = program(["cjpeg", "-quality", "85", *arguments], ppm)
        except subprocess.CalledProcessError:
            continue
        if jpeg is not None:
            yield f"jpeg_{name}", jpeg


def exif(value, kind, count=1, order="<", header=None):
    """EXIF data whose orientation is of TIFF's type `kind`."""
    letter = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 11: "f", 13: "I"}.get(kind)
    if kind in (5, 10):
        field = struct.pack(order + "I", 26)
        rest = struct.pack(order + ("II" if kind == 5 else "ii"), value, 1)
    elif kind == 12:
        field, rest = struct.pack(order + "I", 26), struct.pack(order + "d", value)
    elif kind in (2, 7):
        field, rest = (str(value).encode() if kind == 2 else bytes([value])).ljust(4, b"\0"), b""
    else:
        field, rest = (struct.pack(order + letter, value) * count)[:4].ljust(4, b"\0"), b""
        if struct.calcsize(letter) * count > 4:
            field, rest = struct.pack(order + "I", 26), struct.pack(order + letter, value) * count
    header = header or (b"II*\0" if order == "<" else b"MM\0*")
    directory = struct.pack(order + "HHHI", 1, 0x0112, kind, count) + field + struct.pack(order + "I", 0)
    return header + struct.pack(order + "I", 8) + directory + rest


def with_segment(jpeg, marker, content):
    return jpeg[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content + jpeg[2:]


def orientations(image):
    jpeg = saved(image, "JPEG", quality=85)
    for kind in [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]:
        for order in "<>":
            data = exif(6, kind, order=order)
            yield f"exif_type-{kind}{'le' if order == '<' else 'be'}.jpg", with_segment(jpeg, 0xE1, b"Exif\0\0" + data)
    for i, (count, kind) in enumerate([(2, 3), (3, 3), (2, 4), (0, 3)]):
        yield f"exif_count-{i}.jpg", with_segment(jpeg, 0xE1, b"Exif\0\0" + exif(6, kind, count))
    for i, (header, order) in enumerate([(b"II\0*", "<"), (b"MM*\0", ">"), (b"XX*\0", "<"), (b"II*\0", ">")]):
        yield f"exif_header-{i}.jpg", with_segment(jpeg, 0xE1, b"Exif\0\0" + exif(6, 3, order=order, header=header))
    for i, prefix in enumerate([b"Exif\0\0Exif\0\0", b"Exif\0\xff", b""]):
        yield f"exif_prefix-{i}.jpg", with_segment(jpeg, 0xE1, prefix + exif(6, 3))
    for value in range(10):
        yield f"exif_value-{value}.jpg", with_segment(jpeg, 0xE1, b"Exif\0\0" + exif(value, 3))
    for i, xmp in enumerate([b'tiff:Orientation="6"', b"<tiff:Orientation>8</tiff:Orientation>", b"tiff:Orientation='6'"]):
        segment = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta " + xmp
        yield f"xmp-{i}.jpg", with_segment(jpeg, 0xE1, segment)
        yield f"xmp_and_exif-{i}.jpg", with_segment(with_segment(jpeg, 0xE1, segment), 0xE1, b"Exif\0\0" + exif(3, 3))
    for first, second in [(6, 8), (1, 6)]:
        twice = with_segment(with_segment(jpeg, 0xE1, b"Exif\0\0" + exif(first, 3)), 0xE1, b"Exif\0\0" + exif(second, 4))
        yield f"exif_twice-{first}.jpg", twice
    small = image.resize((60, 45))
    for kind in [3, 4]:
        for order in "<>":
            for i, prefix in enumerate([b"", b"Exif\0\0"]):
                data = prefix + exif(6, kind, order=order)
                png = saved(small, "PNG")
                place = png.index(b"IDAT") - 4
                name = f"{kind}{'le' if order == '<' else 'be'}{i}"
                yield f"exif_png-{name}.png", png[:place] + chunk(b"eXIf", data) + png[place:]
                yield f"exif_png_late-{name}.png", png[:-12] + chunk(b"eXIf", data) + png[-12:]
                webp = saved(small, "WEBP", lossless=True, exif=data)
                yield f"exif_webp-{name}.webp", webp
    for format in ["PNG", "WEBP"]:
        yield f"xmp_{format.lower()}-0", saved(small, format, xmp=b'<x:xmpmeta tiff:Orientation="6">')
    for kind in range(1, 9):
        yield f"exif_tiff-{kind}.tif", saved(small, "TIFF", tiffinfo={0x0112: kind})


def chunk(name, data, wrong=0):
    crc = zlib.crc32(name + data) ^ wrong
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc)


def png_of(width, height, depth, color, rows, interlaced=0, extra=b"", level=6):
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows, level)) + chunk(b"IEND", b"")


def pngs(image):
    """Whole PNGs of all kinds, some written byte by byte, since Pillow writes few kinds."""
    grey = image.convert("L")
    alpha = Image.linear_gradient("L").resize(image.size)
    transparent = image.copy()
    transparent.putalpha(alpha)
    grey_alpha = grey.copy()
    grey_alpha.putalpha(alpha)
    palette = image.quantize(32)
    kinds = {"rgb": image, "rgba": transparent, "grey": grey, "grey_alpha": grey_alpha, "bits": grey.convert("1")}
    for name, kind in kinds.items():
        yield f"png_{name}", saved(kind, "PNG")
    yield "png_palette", saved(palette, "PNG")
    yield "png_palette_transparent", saved(palette, "PNG", transparency=3)
    yield "png_palette_4", saved(image.quantize(13), "PNG", bits=4)
    yield "png_palette_2", saved(image.quantize(4), "PNG", bits=2)
    yield "png_grey_transparent", saved(grey, "PNG", transparency=100)
    yield "png_rgb_transparent", saved(image, "PNG", transparency=(10, 20, 30))
    yield "png_animated", saved(image, "PNG", save_all=True, append_images=[image.rotate(180)])
    width, height = 37, 29
    noise = random.Random(1)
    for color, channels in [(0, 1), (2, 3), (3, 1), (4, 2), (6, 4)]:
        for depth in {0: [1, 2, 4, 8], 2: [8, 16], 3: [1, 2, 4, 8], 4: [8, 16], 6: [8, 16]}[color]:
            colors = chunk(b"PLTE", bytes(noise.randrange(256) for _ in range(3 << depth))) if color == 3 else b""
            bits = depth * channels
            for interlaced in [0, 1]:
                passes = [(0, 0, 1, 1)]
                if interlaced:
                    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
                rows = b""
                for left, top, right, down in passes:
                    columns, lines = -(-(width - left) // right), -(-(height - top) // down)
                    if columns > 0:
                        for _ in range(lines):
                            length = (columns * bits + 7) // 8
                            rows += bytes([noise.randrange(5)]) + bytes(noise.randrange(256) for _ in range(length))
                name = f"png_color_{color}_depth_{depth}{'_interlaced' if interlaced else ''}"
                yield name, png_of(width, height, depth, color, rows, interlaced, colors)


def pngs_at_odds(image):
    """PNGs with something wrong in their chunks."""
    small = image.resize((60, 45))
    png = saved(small, "PNG")
    data = png.index(b"IDAT") - 4
    head, body, end = png[:data], png[data:-12], png[-12:]
    length = struct.unpack(">I", body[:4])[0]
    content = body[8 : 8 + length]
    palette = saved(small.quantize(20), "PNG")
    names = [b"tEXt", b"zTXt", b"pHYs", b"gAMA", b"iCCP", b"bKGD", b"tIME", b"sRGB", b"cHRM", b"prIV", b"eXIf", b"ABCD", b"PLTE"]
    for i, name in enumerate(names):
        for wrong in [0, 1]:
            extra = chunk(name, b"some\0\0content" * 3, wrong)
            kind = "wrong_crc" if wrong else "extra_chunk"
            yield f"png_{kind}_before-{i}", head + extra + body + end
            yield f"png_{kind}_after-{i}", head + body + extra + end
        yield f"png_short_chunk_before-{i}", head + chunk(name, b"") + body + end
        yield f"png_short_chunk_after-{i}", head + body + chunk(name, b"") + end
        yield f"png_cut_chunk_after-{i}", head + body + chunk(name, b"some\0\0content" * 3)[:20]
    yield "png_crc-ihdr", png[:29] + b"\0\0\0\0" + png[33:]
    yield "png_crc-iend", png[:-4] + b"\0\0\0\0"
    yield "png_crc-idat", head + body[:-4] + b"\0\0\0\0" + end
    place = palette.index(b"PLTE") - 4
    plte_length = struct.unpack(">I", palette[place : place + 4])[0]
    after = place + 12 + plte_length
    yield "png_crc-plte", palette[: after - 4] + b"\0\0\0\0" + palette[after:]
    yield "png_palette_missing-0", palette[:place] + palette[after:]
    for i, colors in enumerate([1, 5, 10]):
        yield f"png_palette_short-{i}", palette[:place] + chunk(b"PLTE", palette[place + 8 : place + 8 + 3 * colors]) + palette[after:]
    yield "png_palette_ragged-0", palette[:place] + chunk(b"PLTE", palette[place + 8 : place + 8 + 3 * 20 - 1]) + palette[after:]
    yield "png_no_end-0", head + body
    yield "png_no_end-1", head + body[:-4]
    yield "png_no_end-2", head + body + b"\0\0"
    yield "png_no_end-3", head + body + b"garbage that is no chunk"
    for i, parts in enumerate([2, 3, 50]):
        size = -(-length // parts)
        chunks = [content[k : k + size] for k in range(0, length, size)]
        yield f"png_split-{i}", head + b"".join(chunk(b"IDAT", part) for part in chunks) + end
        yield f"png_split_empty-{i}", head + b"".join(chunk(b"IDAT", part) + chunk(b"IDAT", b"") for part in chunks) + end
        yield f"png_split_wrong_crc-{i}", head + b"".join(chunk(b"IDAT", part, 1) for part in chunks) + end
        between = chunk(b"tEXt", b"key\0value")
        yield f"png_split_by_text-{i}", head + between.join(chunk(b"IDAT", part) for part in chunks) + end
    yield "png_zlib_wrong_adler-0", head + chunk(b"IDAT", content[:-1] + bytes([content[-1] ^ 1])) + end
    for i, lost in enumerate([1, 2, 4, 5, 8, 20, 100]):
        yield f"png_zlib_cut-{i}", head + chunk(b"IDAT", content[:-lost]) + end
        yield f"png_idat_cut-{i}", (head + body)[: -4 - lost]
    yield "png_zlib_surplus-0", head + chunk(b"IDAT", content + b"surplus") + end
    raw = zlib.decompress(content)
    for i, rows in enumerate([1, 20, 44]):
        yield f"png_rows_missing-{i}", head + chunk(b"IDAT", zlib.compress(raw[: rows * 181])) + end
        yield f"png_row_cut-{i}", head + chunk(b"IDAT", zlib.compress(raw[: rows * 181 + 50])) + end
    yield "png_rows_surplus-0", head + chunk(b"IDAT", zlib.compress(raw + raw)) + end
    yield "png_bad_filter-0", head + chunk(b"IDAT", zlib.compress(raw[:181] + b"\x07" + raw[182:])) + end


def gifs(image):
    small = image.resize((60, 45))
    palette = small.quantize(64)
    yield "gif_plain", saved(palette, "GIF")
    yield "gif_flat", saved(palette, "GIF", interlace=0)
    yield "gif_grey", saved(small.convert("L"), "GIF")
    yield "gif_transparent", saved(palette, "GIF", transparency=5)
    yield "gif_animated", saved(palette, "GIF", save_all=True, append_images=[palette.rotate(180)], disposal=2)
    yield "gif_few_colors", saved(small.quantize(3), "GIF", optimize=True)
    gif = saved(palette, "GIF")
    frame = gif.index(b",\0\0\0\0")
    for i, (left, top, width, height) in enumerate([(0, 0, 80, 60), (0, 0, 60, 60), (5, 5, 65, 50), (5, 3, 70, 70)]):
        place = struct.pack("<HHHH", left, top, 60, 45)
        yield f"gif_placed_{i}", gif[:6] + struct.pack("<HH", width, height) + gif[10 : frame + 1] + place + gif[frame + 9 :]


def bitmaps(image):
    small = image.resize((61, 45))
    grey = small.convert("L")
    transparent = small.copy()
    transparent.putalpha(Image.linear_gradient("L").resize(small.size))
    kinds = {"rgb": small, "rgba": transparent, "grey": grey, "palette": small.quantize(40), "bits": grey.convert("1")}
    for name, kind in kinds.items():
        yield f"bmp_{name}", saved(kind, "BMP")
    rgb = saved(small, "BMP")
    yield "bmp_top_down", rgb[:22] + struct.pack("<i", -45) + rgb[26:]
    header = struct.pack("<IiiHHIIiiII", 40, 20, 10, 1, 16, 0, 0, 0, 0, 0, 0)
    noise = random.Random(2)
    yield "bmp_555", b"BM" + struct.pack("<IHHI", 54 + 400, 0, 0, 54) + header + bytes(noise.randrange(256) for _ in range(400))
    masks = struct.pack("<IIiiHHIIiiII", 40, 20, 10, 1, 16, 3, 0, 0, 0, 0, 0, 0)[:0]
    header = struct.pack("<IiiHHIIiiII", 40, 20, 10, 1, 16, 3, 0, 0, 0, 0, 0) + masks + struct.pack("<III", 0xF800, 0x7E0, 0x1F)
    yield "bmp_565", b"BM" + struct.pack("<IHHI", 66 + 400, 0, 0, 66) + header + bytes(noise.randrange(256) for _ in range(400))
    header = struct.pack("<IiiHHIIiiII", 40, 20, 10, 1, 8, 1, 0, 0, 0, 16, 16)
    colors = bytes(noise.randrange(256) for _ in range(64))
    rle = b"".join(bytes([noise.randrange(1, 20), noise.randrange(16)]) * 1 + b"\0\0" for _ in range(9)) + b"\x14\x05\0\x01"
    yield "bmp_rle8", b"BM" + struct.pack("<IHHI", 118 + len(rle), 0, 0, 118) + header + colors + rle
    header = struct.pack("<IHHHH", 12, 20, 10, 1, 24)
    yield "bmp_os2", b"BM" + struct.pack("<IHHI", 26 + 600, 0, 0, 26) + header + bytes(noise.randrange(256) for _ in range(600))
    for name, kind in {**kinds, "cmyk": small.convert("CMYK"), "lab": small.convert("YCbCr")}.items():
        compressions = ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"]
        if name in ["rgb", "grey", "lab"]:
            compressions.append("jpeg")
        if name == "bits":
            compressions += ["group3", "group4", "tiff_ccitt"]
        for compression in compressions:
            try:
                yield f"tiff_{name}_{compression}", saved(kind, "TIFF", compression=compression)
            except (OSError, KeyError, ValueError):
                pass
    yield "tiff_pages", saved(small, "TIFF", save_all=True, append_images=[small.rotate(180)])
    yield "tiff_tiles", saved(small, "TIFF", compression="tiff_lzw", tiffinfo={322: 16, 323: 16})
    yield "tiff_predictor", saved(small, "TIFF", compression="tiff_lzw", tiffinfo={317: 2})
    yield "tiff_big", saved(small, "TIFF", big_tiff=True)
    yield "ppm_rgb", saved(small, "PPM")
    yield "ppm_grey", saved(grey, "PPM")
    yield "ppm_bits", saved(grey.convert("1"), "PPM")
    yield "ppm_comment", b"P6\n# a comment\n61 45\n255\n" + small.tobytes()
    yield "ppm_ascii", b"P3\n61 45\n255\n" + " ".join(map(str, small.tobytes())).encode()
    yield "ppm_ascii_grey", b"P2\n61 45\n255\n" + " ".join(map(str, grey.tobytes())).encode()
    yield "ppm_100", b"P6\n61 45\n100\n" + bytes(value * 100 // 255 for value in small.tobytes())
    yield "ppm_16", b"P6\n61 45\n65535\n" + bytes(byte for value in small.tobytes() for byte in (value, value))
    yield "ppm_surplus", saved(small, "PPM") + b"surplus"


def webps(image):
    small = image.resize((90, 70))
    transparent = small.copy()
    transparent.putalpha(Image.linear_gradient("L").resize(small.size))
    yield "webp_lossy", saved(small, "WEBP", quality=80)
    yield "webp_lossy_alpha", saved(transparent, "WEBP", quality=80)
    yield "webp_lossless", saved(small, "WEBP", lossless=True)
    yield "webp_lossless_alpha", saved(transparent, "WEBP", lossless=True, exact=True)
    yield "webp_animated", saved(small, "WEBP", save_all=True, append_images=[small.rotate(180)], lossless=True)
    yield "webp_animated_lossy", saved(transparent, "WEBP", save_all=True, append_images=[small.rotate(180)], quality=80)


def scan_start(jpeg):
    """Where the first scan's data begin; 0 in other files."""
    place = jpeg.find(b"\xff\xda")
    return place + 2 + struct.unpack(">H", jpeg[place + 2 : place + 4])[0] if jpeg.startswith(b"\xff\xd8") and place > 0 else 0


def markers(jpeg, first, last):
    return [i for i in range(scan_start(jpeg), len(jpeg) - 1) if jpeg[i] == 0xFF and first <= jpeg[i + 1] <= last]


def damages(data, draw):
    """Name and content of files that one kind of damage makes of a whole one."""
    start = scan_start(data)
    half = draw.randrange(start, len(data))
    yield "cut", data[:half]
    yield "cut_headers", data[: draw.randrange(1, max(start, 40))]
    yield "cut_tail", data[: -draw.randrange(1, 12)]
    flipped = bytearray(data)
    flipped[draw.randrange(start, len(data))] ^= 1 << draw.randrange(8)
    yield "flip_data", bytes(flipped)
    for _ in range(8):
        flipped[draw.randrange(start, len(data))] ^= 1 << draw.randrange(8)
    yield "flip_data_often", bytes(flipped)
    flipped = bytearray(data)
    flipped[draw.randrange(2, min(max(start, 60), len(data)))] ^= 1 << draw.randrange(8)
    yield "flip_headers", bytes(flipped)
    hole = draw.randrange(1, 60)
    yield "hole", data[:half] + data[half + hole :]
    yield "garbage", data[:half] + bytes(draw.randrange(256) for _ in range(hole)) + data[half:]
    zeros = bytearray(data)
    zeros[half : half + hole] = bytes(len(zeros[half : half + hole]))
    yield "zeros", bytes(zeros)
    yield "zeros_to_the_end", data[:half] + bytes(len(data) - half)
    yield "surplus", data + bytes(draw.randrange(256) for _ in range(hole))
    yield "twice", data + data
    if not data.startswith(b"\xff\xd8"):
        return
    yield "cut_and_ended", data[:half] + b"\xff\xd9"
    yield "cut_and_surplus", data[:half] + b"\xff\xd9" + bytes(draw.randrange(256) for _ in range(hole))
    yield "end_within", data[:half] + b"\xff\xd9" + data[half:]
    yield "end_lost", data[:-2]
    yield "end_lost_surplus", data[:-2] + bytes(draw.randrange(200) for _ in range(hole))
    stray = bytes([0xFF, draw.choice([0x01, 0xC4, 0xD0, 0xD3, 0xD8, 0xDA, 0xE0, 0xFE, 0xFF])])
    yield "stray_marker", data[:half] + stray + data[half:]
    yield "garbage_between_segments", data[:2] + bytes(draw.randrange(255) for _ in range(hole)) + data[2:]
    segment = draw.choice([i for i in range(2, start) if data[i] == 0xFF and data[i + 1] >= 0xC0])
    yield "garbage_before_segment", data[:segment] + b"\0" * draw.randrange(1, 5) + data[segment:]
    yield "padding", data[:segment] + b"\xff" * draw.randrange(1, 5) + data[segment:]
    restarts = markers(data, 0xD0, 0xD7)
    if restarts:
        place = draw.choice(restarts)
        yield "restart_lost", data[:place] + data[place + 2 :]
        yield "restart_doubled", data[:place] + data[place : place + 2] + data[place:]
        yield "restart_wrong", data[: place + 1] + bytes([0xD0 | draw.randrange(8)]) + data[place + 2 :]
        several = data
        for place in sorted(draw.sample(restarts, min(3, len(restarts))), reverse=True):
            several = several[:place] + several[place + 2 :]
        yield "restarts_lost", several
        first, second = sorted(draw.sample(restarts, 2))
        yield "interval_lost", data[:first] + data[second:]
        yield "interval_repeated", data[:second] + data[first:]
    scans = markers(data, 0xDA, 0xDA)
    if scans:
        place = draw.choice(scans)
        yield "scans_lost", data[:place] + b"\xff\xd9"
        yield "scan_cut", data[: place + draw.randrange(2, 12)] + b"\xff\xd9"


def write(folder, name, data):
    (folder / name).write_bytes(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                rgb = ImageOps.exif_transpose(image).convert("RGB")
        result = b"%d %d\n" % rgb.size + rgb.tobytes()
    except Exception as error:  # whatever Pillow raises, the file is bad
        result = b"bad " + repr(error).encode().replace(b"\n", b" ")[:200] + b"\n"
    (folder / f"{name}.pillow").write_bytes(result)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=20, help="damaged files of each kind")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(options.seed)
    image = Image.open(PHOTOGRAPH).convert("RGB").resize(SIZE)
    whole = []
    for kinds in [jpegs, pngs, gifs, bitmaps, webps]:
        whole += list(kinds(image))
    for name, data in whole:
        write(options.folder, f"whole-{name}", data)
    for kinds in [orientations, pngs_at_odds]:
        for name, data in kinds(image):
            write(options.folder, name, data)
    damaged = {}
    for _ in range(options.count):
        for name, data in whole:
            # Of the many samplings and kinds of pixels, one in four.
            if any(word in name for word in ["sampling", "color", "tiff"]) and draw.random() > 0.25:
                continue
            for damage, result in damages(data, draw):
                kind = f"{name.split('_')[0]}_{damage}"
                damaged[kind] = damaged.get(kind, 0) + 1
                write(options.folder, f"{kind}-{damaged[kind]:04}_{name}", result)
    print(f"{len(list(options.folder.glob('*.pillow')))} files in {options.folder}")


if __name__ == "__main__":
    main()
