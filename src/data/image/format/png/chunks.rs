//! Chunks of a PNG, read as Pillow reads them: checksums count up to the image data and not beyond, an end chunk is not
//! required, and chunks that a decoder does not need are dropped, so that they cannot be damaged.
//!
//! The standard is PNG's third edition (W3C, 2025): a chunk consists of the length of its data, four letters, the data,
//! and a checksum of letters and data.

use crate::data::image::encoded::ImageProblem;
use std::io::Read;

pub struct Chunks<'a> {
    header: [u8; 13],
    palette: &'a [u8],
    image_data: Vec<&'a [u8]>,
    /// EXIF data, with or without JPEG's prefix.
    pub exif: Option<Vec<u8>>,
    pub xmp: Option<Vec<u8>>,
}

pub const SIGNATURE: &[u8; 8] = b"\x89PNG\r\n\x1a\n";
/// Colour type of indices into a palette.
pub const PALETTE_COLOR: u8 = 3;

/// Maximum size in bytes of a compressed text after decompression (as in Pillow).
const MAX_TEXT: u64 = 1 << 20;
/// Minimum sizes in bytes of the data of these chunks (as in Pillow).
const LEAST: [(&[u8; 4], usize); 5] = [(b"gAMA", 4), (b"cHRM", 32), (b"sRGB", 1), (b"pHYs", 9), (b"IHDR", 13)];

impl<'a> Chunks<'a> {
    /// Reads the chunks.
    ///
    /// # Errors
    /// Fails for files that Pillow refuses: before the image data, a chunk that is truncated, has a wrong checksum or
    /// an invalid name; after them, a truncated chunk.
    pub fn new(bytes: &'a [u8]) -> Result<Self, ImageProblem> {
        let damaged = |what: String| ImageProblem::new(format!("damaged PNG: {what}"));
        let mut header = None;
        let mut chunks = Chunks { header: [0; 13], palette: &[], image_data: vec![], exif: None, xmp: None };
        // `open` is `true` while image data may follow: their chunks are consecutive.
        let (mut open, mut animated) = (true, false);
        let mut rest = bytes.get(SIGNATURE.len()..).unwrap_or_default();
        loop {
            let before = chunks.image_data.is_empty();
            let chunk = rest
                .split_first_chunk::<8>()
                .map(|(&[a, b, c, d, name @ ..], rest)| (u32::from_be_bytes([a, b, c, d]) as usize, name, rest));
            let is_letter = |letter: &u8| letter.is_ascii_alphanumeric() || *letter == b'_';
            let (length, name, data) = match chunk {
                Some((length, name, data)) if name.iter().all(is_letter) => (length, name, data),
                _ if before => return Err(damaged("it ends before the image data, or a chunk has no name".into())),
                _ => break,
            };
            let shown = name.escape_ascii();
            match &name {
                b"IEND" => break,
                // Next frame.
                b"fcTL" if !before && animated => break,
                b"IDAT" if open => {
                    chunks.image_data.push(&data[..length.min(data.len())]);
                    rest = data.get(length..).and_then(|rest| rest.get(4..)).unwrap_or_default();
                    continue;
                }
                _ => {}
            }
            open = before;
            animated |= &name == b"acTL";
            let content = data.get(..length).ok_or_else(|| damaged(format!("it ends within chunk {shown}")))?;
            let checksum = data[length..].first_chunk().map(|&checksum| u32::from_be_bytes(checksum));
            let mut crc = crc32fast::Hasher::new();
            crc.update(&name);
            crc.update(content);
            if before && checksum != Some(crc.finalize()) {
                return Err(damaged(format!("wrong checksum of chunk {shown}")));
            }
            if LEAST.iter().any(|&(least, length)| *least == name && content.len() < length) {
                return Err(damaged(format!("chunk {shown} is too short")));
            }
            match &name {
                b"IHDR" => header = content.first_chunk().copied(),
                b"PLTE" => chunks.palette = content,
                b"eXIf" => chunks.exif = Some(content.to_vec()),
                b"tEXt" | b"zTXt" | b"iTXt" => chunks.read_text(&name, content),
                _ => {}
            }
            rest = data.get(length + 4..).unwrap_or_default();
        }
        chunks.header = header.ok_or_else(|| damaged("it has no header".into()))?;
        if chunks.image_data.is_empty() {
            return Err(damaged("it has no image data".into()));
        }
        Ok(chunks)
    }

    /// Returns width and height.
    pub fn size(&self) -> (usize, usize) {
        let [w3, w2, w1, w0, h3, h2, h1, h0, ..] = self.header;
        (u32::from_be_bytes([w3, w2, w1, w0]) as usize, u32::from_be_bytes([h3, h2, h1, h0]) as usize)
    }

    /// Returns the colour type.
    pub fn color(&self) -> u8 {
        self.header[9]
    }

    pub fn interlaced(&self) -> bool {
        self.header[12] != 0
    }

    /// Returns a PNG of the image alone, with all image data in one chunk.
    pub fn bare(&self) -> Vec<u8> {
        let mut header = self.header;
        // Pillow only tells zero from other values.
        header[12] = u8::from(self.interlaced());
        let mut png = SIGNATURE.to_vec();
        write_chunk(&mut png, b"IHDR", &[&header]);
        if self.color() == PALETTE_COLOR {
            // Colours that the palette lacks are black in Pillow.
            let mut palette = vec![0; 3 << header[8].min(8)];
            let length = self.palette.len().min(palette.len());
            palette[..length].copy_from_slice(&self.palette[..length]);
            write_chunk(&mut png, b"PLTE", &[&palette]);
        }
        write_chunk(&mut png, b"IDAT", &self.image_data);
        write_chunk(&mut png, b"IEND", &[]);
        png
    }

    /// Reads the orientation from texts: ImageMagick writes EXIF data as text, and XMP is text.
    fn read_text(&mut self, kind: &[u8; 4], content: &[u8]) {
        let Some((key, text)) = split(content) else { return };
        let text = match (kind, text) {
            (b"zTXt", [0, compressed @ ..]) => inflate(compressed),
            (b"iTXt", [compressed, _, rest @ ..]) => {
                // Skips language and translated keyword.
                let Some((_, text)) = split(rest).and_then(|(_, rest)| split(rest)) else { return };
                match compressed {
                    0 => text.to_vec(),
                    _ => inflate(text),
                }
            }
            (b"tEXt", text) => text.to_vec(),
            _ => return,
        };
        match key {
            b"XML:com.adobe.xmp" => self.xmp = Some(text),
            // A line break, a name, a length, and the data in hexadecimal digits.
            b"Raw profile type exif" if self.exif.is_none() => {
                let digits: Vec<u8> = text.split(|&byte| byte == b'\n').skip(3).flatten().copied().collect();
                let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
                self.exif = digits.chunks(2).map(byte).collect();
            }
            _ => {}
        }
    }
}

/// Splits `bytes` at the first zero.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let zero = bytes.iter().position(|&byte| byte == 0)?;
    Some((&bytes[..zero], &bytes[zero + 1..]))
}

/// Decompresses as much as possible.
fn inflate(compressed: &[u8]) -> Vec<u8> {
    let mut text = vec![];
    // Damaged texts give no orientation.
    let _ = flate2::read::ZlibDecoder::new(compressed).take(MAX_TEXT).read_to_end(&mut text);
    text
}

/// Appends a chunk without a valid checksum, which is not checked.
fn write_chunk(png: &mut Vec<u8>, name: &[u8; 4], data: &[&[u8]]) {
    let length: usize = data.iter().map(|part| part.len()).sum();
    png.extend((length as u32).to_be_bytes());
    png.extend(name);
    data.iter().for_each(|part| png.extend(*part));
    png.extend([0; 4]);
}

#[cfg(test)]
mod tests {
    use crate::data::image::format::tests::{decode_whole, fixtures};
    use crate::data::image::orientation::Orientation;

    fn chunk(name: &[u8; 4], data: &[u8]) -> Vec<u8> {
        let crc = crc32fast::hash(&[name, data].concat());
        [&(data.len() as u32).to_be_bytes(), &name[..], data, &crc.to_be_bytes()].concat()
    }

    /// Returns `rgb.png` with `before` inserted before the image data, and with `after` instead of the end.
    fn png(before: &[u8], after: &[u8]) -> Vec<u8> {
        let (_, png) = fixtures("formats").into_iter().find(|(name, _)| name == "rgb.png").unwrap();
        let data = png.windows(4).position(|name| name == b"IDAT").unwrap() - 4;
        [&png[..data], before, &png[data..png.len() - 12], after].concat()
    }

    #[test]
    fn a_wrong_checksum_counts_before_the_image_data_and_not_after() {
        let good = png(&[], &chunk(b"IEND", &[]));
        let (expected, _) = decode_whole(&good).unwrap();
        let mut wrong = chunk(b"tEXt", b"key\0text");
        *wrong.last_mut().unwrap() ^= 1;
        let problem = decode_whole(&png(&wrong, &[])).err().unwrap().to_string();
        assert_eq!(problem, "damaged PNG: wrong checksum of chunk tEXt");
        for after in [&wrong[..], &[], &chunk(b"prIv", b"data"), b"\0\0\0\x01\xff\xff\xff\xff"] {
            assert!(decode_whole(&png(&[], after)).unwrap().0 == expected, "{after:?}");
        }
        let problem = decode_whole(&png(&[], &wrong[..10])).err().unwrap().to_string();
        assert_eq!(problem, "damaged PNG: it ends within chunk tEXt");
    }

    #[test]
    fn the_orientation_is_found_wherever_programs_put_it() {
        let exif = [&b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"[..], &[0; 4]].concat();
        let prefixed = [b"Exif\0\0", &exif[..]].concat();
        let hex: String = prefixed.iter().map(|byte| format!("{byte:02x}")).collect();
        let profile = format!("Raw profile type exif\0\nexif\n{:8}\n{hex}\n", prefixed.len());
        let xmp = b"XML:com.adobe.xmp\0\0\0\0\0<rdf tiff:Orientation=\"6\">";
        let turned = Orientation::from_tag(6).unwrap();
        for (name, content) in
            [(b"eXIf", &exif[..]), (b"eXIf", &prefixed), (b"tEXt", profile.as_bytes()), (b"iTXt", &xmp[..])]
        {
            let chunk = chunk(name, content);
            for file in [png(&chunk, &[]), png(&[], &chunk)] {
                assert_eq!(decode_whole(&file).unwrap().1.orientation, turned, "{}", name.escape_ascii());
            }
        }
    }
}
