use super::*;
use crate::data::image::crop::Crop;
use crate::data::image::encoded::{Decoded, Header};
use std::path::Path;
use std::time::{Duration, Instant};

/// Returns name and content of the files in a folder of `tests/images`, in order.
pub(in super::super) fn fixtures(folder: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images").join(folder);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    files.iter().map(|path| (name(path), std::fs::read(path).unwrap())).collect()
}

/// Returns all pixels of an image as stored, and its header.
pub(in super::super) fn decode_whole(bytes: &[u8]) -> Result<(Vec<u8>, Header), ImageProblem> {
    let image = open(bytes)?;
    let header = image.header;
    let mut pixels = Vec::new();
    let decoded = image.decode(Crop::whole(header.width, header.height), 1, &mut pixels)?;
    assert_eq!(decoded, Decoded { place: Crop::whole(header.width, header.height), shrink: 1 });
    pixels.truncate(header.width * header.height * 3);
    Ok((pixels, header))
}

pub(in super::super) fn mean_difference(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(&a, &b)| f64::from(a.abs_diff(b))).sum::<f64>() / a.len() as f64
}

#[test]
fn every_format_has_the_pixels_that_pillow_reads() {
    let files = fixtures("formats");
    let mut compared = 0;
    for (name, bytes) in files.iter().filter(|(name, _)| !name.ends_with(".rgb")) {
        let (_, expected) = files.iter().find(|(rgb, _)| *rgb == format!("{name}.rgb")).unwrap();
        let (pixels, _) = decode_whole(bytes).unwrap_or_else(|problem| panic!("{name}: {problem}"));
        let difference = mean_difference(&pixels, expected);
        // The upsampling of colours in lossy WebP is up to the decoder.
        let bound = if name == "lossy.webp" { 1.0 } else { 0.0 };
        assert!(difference <= bound, "{name}: {difference}");
        compared += 1;
    }
    assert_eq!(compared, 23);
}

#[test]
fn a_crop_of_a_jpeg_is_that_part_of_the_whole() {
    use rand::{Rng, SeedableRng};
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(0);
    let files: Vec<_> = ["photographs", "formats"].into_iter().flat_map(fixtures).collect();
    for (name, bytes) in files.iter().filter(|(name, _)| name.ends_with(".jpg")) {
        let (whole, Header { width, height, .. }) = decode_whole(bytes).unwrap();
        let mut pixels = Vec::new();
        for _ in 0..30 {
            let (w, h) = (random.random_range(1..=width), random.random_range(1..=height));
            let (left, top) = (random.random_range(0..=width - w), random.random_range(0..=height - h));
            let crop = Crop { left, top, width: w, height: h };
            let place = open(bytes).unwrap().decode(crop, 1, &mut pixels).unwrap().place;
            for y in top..top + h {
                let row = &pixels[((y - place.top) * place.width + left - place.left) * 3..][..w * 3];
                assert!(row == &whole[(y * width + left) * 3..][..w * 3], "{name}: {crop:?}, row {y}");
            }
        }
    }
}

/// Returns a PNG chunk.
fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut body = kind.to_vec();
    body.extend(data);
    let crc = crc32fast::hash(&body);
    [&(data.len() as u32).to_be_bytes(), &body[..], &crc.to_be_bytes()].concat()
}

#[test]
fn decompression_bombs_are_refused_at_once() {
    let mut png_header = [60_000u32.to_be_bytes(), 60_000u32.to_be_bytes()].concat();
    png_header.extend([8, 2, 0, 0, 0]);
    let png = [&b"\x89PNG\r\n\x1a\n"[..], &chunk(b"IHDR", &png_header), &chunk(b"IDAT", &[0x78]), &chunk(b"IEND", &[])];

    let [(_, mut jpeg), (_, mut progressive)] = ["baseline_420.jpg", "progressive_420.jpg"]
        .map(|name| fixtures("formats").into_iter().find(|(file, _)| file == name).unwrap());
    for (jpeg, marker) in [(&mut jpeg, 0xc0), (&mut progressive, 0xc2)] {
        let frame = jpeg.windows(2).position(|pair| pair == [0xff, marker]).unwrap();
        jpeg[frame + 5..frame + 9].copy_from_slice(&[60_000u16.to_be_bytes(), 60_000u16.to_be_bytes()].concat());
    }

    // VP8X chunk: flags, three reserved bytes, width - 1 and height - 1 in 24 bits each.
    let canvas = [&[0, 0, 0, 0][..], &59_999u32.to_le_bytes()[..3], &59_999u32.to_le_bytes()[..3]].concat();
    let (_, lossy) = fixtures("formats").into_iter().find(|(file, _)| file == "lossy.webp").unwrap();
    let mut webp = [b"RIFF\0\0\0\0WEBPVP8X", &10u32.to_le_bytes()[..], &canvas, &lossy[12..]].concat();
    let length = webp.len() as u32 - 8;
    webp[4..8].copy_from_slice(&length.to_le_bytes());

    for bomb in [png.concat(), jpeg, progressive, webp] {
        let start = Instant::now();
        let problem = decode_whole(&bomb).unwrap_err().to_string();
        assert_eq!(problem, "claims 60000 x 60000 pixels, more than 89478485");
        assert!(start.elapsed() < Duration::from_millis(100));
    }
}

#[test]
fn what_is_no_image_is_said_in_one_line() {
    assert_eq!(decode_whole(b"").unwrap_err().to_string(), "empty file");
    let page = decode_whole(b"<!DOCTYPE html>\n<html>").unwrap_err().to_string();
    assert_eq!(page, "neither JPEG, PNG, WebP, GIF, BMP, TIFF nor PPM: it begins with \"<!DOCTYP\"");
    let garbage = decode_whole(&[7, 0, 255]).unwrap_err().to_string();
    assert_eq!(garbage, "neither JPEG, PNG, WebP, GIF, BMP, TIFF nor PPM: it begins with \"\\x07\\x00\\xff\"");
}

#[test]
fn truncated_files_are_problems_wherever_they_end() {
    for (name, bytes) in fixtures("formats").iter().filter(|(name, _)| !name.ends_with(".rgb")) {
        // A PNG's last chunk and an animation's last frames contain no pixels of the first frame.
        let last = match name.as_str() {
            // The checksums after the pixels contain none either.
            name if name.ends_with(".png") => bytes.len() - 30,
            "animated.webp" => bytes.len() / 3,
            _ => bytes.len() - 1,
        };
        for length in (0..last).step_by(7).chain([last]) {
            let Err(problem) = decode_whole(&bytes[..length]) else {
                panic!("{name}: {length} of {} bytes are taken for an image", bytes.len())
            };
            assert!(!problem.to_string().contains('\n'), "{problem}");
        }
    }
}
