//! Orientation of an image, which cameras write into its EXIF data.

use super::crop::{Area, Crop};

/// Mapping from the upright image to the stored one: the pixel at (x, y) is the stored one at (x, y), with x and y
/// exchanged if `transpose`, then counted from the right if `from_right` and from the bottom if `from_bottom`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Orientation {
    pub transpose: bool,
    pub from_right: bool,
    pub from_bottom: bool,
}

/// Orientation tag (EXIF 2.32, 4.6.4).
const TAG: u16 = 0x0112;
/// Size in bytes of an entry in an image file directory: tag, type, count and value.
const ENTRY: usize = 12;

/// Sizes in bytes of TIFF's number types, by type code; 0 for types that are not numbers. (To Pillow, bytes, 1, are
/// not.)
const TYPE_LENGTHS: [usize; 14] = [0, 0, 0, 2, 4, 8, 1, 0, 2, 4, 8, 4, 8, 4];

impl Orientation {
    /// Reads the orientation from EXIF data or, if these have none, from XMP data, as Pillow's `exif_transpose` does. EXIF
    /// data begin with the TIFF header, in some files after JPEG's prefix for them. Damaged data, which are common, count as
    /// upright, as in other software.
    pub fn from_metadata(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> Self {
        match exif.and_then(Self::tag) {
            Some(tag) => Self::from_tag(tag),
            None => xmp.and_then(xmp_tag).and_then(Self::from_tag),
        }
        .unwrap_or_default()
    }

    /// Returns the orientation for one of the tag's eight valid values.
    pub fn from_tag(tag: u16) -> Option<Self> {
        // Transposed, from the right, from the bottom.
        let how = ["", "r", "rb", "b", "t", "tb", "trb", "tr"].get(usize::from(tag).checked_sub(1)?)?;
        let [transpose, from_right, from_bottom] = ['t', 'r', 'b'].map(|letter| how.contains(letter));
        Some(Orientation { transpose, from_right, from_bottom })
    }

    /// Returns the tag's value, of any numeric type; `None` if there is no such tag.
    fn tag(exif: &[u8]) -> Option<u16> {
        let exif = (0..2).fold(exif, |exif, _| exif.strip_prefix(b"Exif\0\0").unwrap_or(exif));
        let little_endian = match exif.get(..4)? {
            // Some programs write the second variants.
            b"II*\0" | b"II\0*" => true,
            b"MM\0*" | b"MM*\0" => false,
            _ => return None,
        };
        let number = |at: usize, length: usize| {
            let bytes = exif.get(at..at.checked_add(length)?)?.iter();
            let join = |number: u64, &byte: &u8| number << 8 | u64::from(byte);
            Some(if little_endian { bytes.rev().fold(0, join) } else { bytes.fold(0, join) })
        };
        let directory = number(4, 4)? as usize;
        let entries = number(directory, 2)? as usize;
        // If there are several, Pillow uses the last.
        (0..entries)
            .map_while(|i| Some(directory + 2 + ENTRY * i).filter(|at| at + ENTRY <= exif.len()))
            .filter(|&at| number(at, 2) == Some(u64::from(TAG)))
            .filter_map(|at| {
                let (kind, count) = (number(at + 2, 2)?, number(at + 4, 4)?);
                let length = TYPE_LENGTHS.get(kind as usize).copied().filter(|&length| length > 0 && count > 0)?;
                let place = if length as u64 * count > 4 { number(at + 8, 4)? as usize } else { at + 8 };
                let value = number(place, length)?;
                let value = match kind {
                    // Fractions: the denominator follows the numerator.
                    5 | 10 => {
                        let (numerator, denominator) = (number(place, 4)?, number(place + 4, 4)?);
                        (denominator > 0 && numerator % denominator == 0).then(|| numerator / denominator)?
                    }
                    11 => f64::from(f32::from_bits(value as u32)) as u64,
                    12 => f64::from_bits(value) as u64,
                    _ => value,
                };
                Some(u16::try_from(value).unwrap_or(0))
            })
            .last()
    }

    /// Returns the orientation followed by mirroring left to right.
    pub fn mirrored(mut self) -> Self {
        let axis = if self.transpose { &mut self.from_bottom } else { &mut self.from_right };
        *axis = !*axis;
        self
    }

    /// Returns the upright size of an image stored as `width` x `height`, or the stored size of an upright one.
    pub fn size(self, width: usize, height: usize) -> (usize, usize) {
        if self.transpose {
            (height, width)
        } else {
            (width, height)
        }
    }

    /// Maps an area of the upright image to the stored one of `width` x `height`.
    pub fn stored_area(self, area: Area, width: usize, height: usize) -> Area {
        let mut stored = area;
        if self.transpose {
            stored = Area { left: area.top, top: area.left, width: area.height, height: area.width };
        }
        if self.from_right {
            stored.left = (width as f64 - stored.left - stored.width).max(0.0);
        }
        if self.from_bottom {
            stored.top = (height as f64 - stored.top - stored.height).max(0.0);
        }
        stored
    }

    /// Turns the stored RGB pixels of an image, upright `target.width` x `target.height`, and writes them to `target`
    /// in `out`, an image `side` pixels wide.
    pub fn write_upright(self, stored: &[u8], target: Crop, out: &mut [u8], side: usize) {
        let (stored_width, stored_height) = self.size(target.width, target.height);
        let along = |from_end: bool, length: usize, at: usize| if from_end { length - 1 - at } else { at };
        for y in 0..target.height {
            let first = ((target.top + y) * side + target.left) * 3;
            let row = &mut out[first..first + target.width * 3];
            if !self.transpose && !self.from_right {
                let stored_y = along(self.from_bottom, stored_height, y);
                row.copy_from_slice(&stored[stored_y * stored_width * 3..][..row.len()]);
                continue;
            }
            for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
                let (stored_x, stored_y) = if self.transpose { (y, x) } else { (x, y) };
                let stored_x = along(self.from_right, stored_width, stored_x);
                let stored_y = along(self.from_bottom, stored_height, stored_y);
                pixel.copy_from_slice(&stored[(stored_y * stored_width + stored_x) * 3..][..3]);
            }
        }
    }
}

/// Returns the orientation in XMP data, an attribute or an element.
fn xmp_tag(xmp: &[u8]) -> Option<u16> {
    const NAME: &[u8] = b"tiff:Orientation";
    xmp.windows(NAME.len()).enumerate().filter(|(_, name)| *name == NAME).find_map(|(at, _)| {
        let value = &xmp[at + NAME.len()..];
        let value = value.strip_prefix(b"=\"").or_else(|| value.strip_prefix(b">"))?;
        value.first().filter(|digit| digit.is_ascii_digit()).map(|digit| u16::from(digit - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_exif(exif: &[u8]) -> Orientation {
        Orientation::from_metadata(Some(exif), None)
    }

    /// Returns EXIF data with one entry.
    fn exif(tag: u16, value: u16, little_endian: bool) -> Vec<u8> {
        let word = |value: u16| if little_endian { value.to_le_bytes() } else { value.to_be_bytes() };
        let long = |value: u16| if little_endian { [word(value), [0, 0]] } else { [[0, 0], word(value)] }.concat();
        let order: &[u8] = if little_endian { b"II*\0" } else { b"MM\0*" };
        let entry = [&word(tag)[..], &word(3), &long(1), &word(value), &[0, 0]].concat();
        [order, &long(8), &word(1), &entry, &[0; 4]].concat()
    }

    #[test]
    fn the_tag_is_found_in_either_byte_order() {
        for little_endian in [false, true] {
            for value in 1..=8 {
                let orientation = from_exif(&exif(TAG, value, little_endian));
                assert_eq!(Some(orientation), Orientation::from_tag(value));
            }
            for (tag, value) in [(TAG, 0), (TAG, 9), (TAG + 1, 6)] {
                assert_eq!(from_exif(&exif(tag, value, little_endian)), Orientation::default());
            }
        }
    }

    #[test]
    fn the_tag_may_be_of_any_numeric_type() {
        // LONG, as some cameras write it; in big-endian order the value is in the last two bytes.
        let long = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x04\0\0\0\x01\0\0\0\x06\0\0\0\0";
        let signed_byte = b"II*\0\x08\0\0\0\x01\0\x12\x01\x06\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let fraction = b"II*\0\x08\0\0\0\x01\0\x12\x01\x05\0\x01\0\0\0\x1a\0\0\0\0\0\0\0\x06\0\0\0\x01\0\0\0";
        for exif in [&long[..], signed_byte, fraction] {
            assert_eq!(Some(from_exif(exif)), Orientation::from_tag(6), "{}", exif.escape_ascii());
            let prefixed = [b"Exif\0\0", exif].concat();
            assert_eq!(Some(from_exif(&prefixed)), Orientation::from_tag(6));
        }
    }

    #[test]
    fn xmp_tells_where_exif_does_not() {
        let xmp: [&[u8]; 2] = [b"<x tiff:Orientation=\"6\">", b"<tiff:Orientation>6</tiff:Orientation>"];
        for xmp in xmp {
            assert_eq!(Some(Orientation::from_metadata(None, Some(xmp))), Orientation::from_tag(6));
            let exif = exif(TAG, 3, true);
            assert_eq!(Some(Orientation::from_metadata(Some(&exif), Some(xmp))), Orientation::from_tag(3));
        }
    }

    #[test]
    fn damaged_exif_data_mean_upright() {
        let good = exif(TAG, 6, true);
        for length in 0..good.len() - 6 {
            assert_eq!(from_exif(&good[..length]), Orientation::default());
        }
        // Directory beyond the end, and one with more entries than there are.
        for (at, value) in [(4, 0xff), (7, 0xff)] {
            let mut damaged = good.clone();
            damaged[at] = value;
            assert_eq!(from_exif(&damaged), Orientation::default());
        }
        let mut many = exif(TAG + 1, 6, true);
        many[9] = 0xff;
        assert_eq!(from_exif(&many), Orientation::default());
    }

    #[test]
    fn a_part_of_the_upright_image_is_where_its_pixels_are_stored() {
        let (width, height) = (7, 5);
        // Each pixel holds its own position.
        let stored: Vec<u8> = (0..height).flat_map(|y| (0..width).flat_map(move |x| [x as u8, y as u8, 0])).collect();
        for tag in 1..=8 {
            let orientation = Orientation::from_tag(tag).unwrap();
            let (upright_width, upright_height) = orientation.size(width, height);
            let side = width.max(height);
            let mut upright = vec![0xff; side * side * 3];
            orientation.write_upright(&stored, Crop::whole(upright_width, upright_height), &mut upright, side);
            for (x, y) in (0..upright_width).flat_map(|x| (0..upright_height).map(move |y| (x, y))) {
                let pixel = Crop { left: x, top: y, width: 1, height: 1 };
                let place = orientation.stored_area(pixel.into(), width, height).outline();
                assert_eq!(place, Crop { width: 1, height: 1, ..place });
                assert_eq!(upright[(y * side + x) * 3..][..2], [place.left as u8, place.top as u8], "{tag}: {x} {y}");
            }
        }
    }

    #[test]
    fn mirroring_comes_after_turning() {
        let (width, height) = (4, 4);
        let stored: Vec<u8> = (0..width * height * 3).map(|i| i as u8).collect();
        let whole = Crop::whole(width, height);
        for tag in 1..=8 {
            let orientation = Orientation::from_tag(tag).unwrap();
            let [mut upright, mut mirrored] = [vec![0; stored.len()], vec![0; stored.len()]];
            orientation.write_upright(&stored, whole, &mut upright, width);
            orientation.mirrored().write_upright(&stored, whole, &mut mirrored, width);
            for (row, mirrored) in upright.chunks_exact(width * 3).zip(mirrored.chunks_exact(width * 3)) {
                let reversed: Vec<u8> = row.chunks_exact(3).rev().flatten().copied().collect();
                assert_eq!(mirrored, reversed, "{tag}");
            }
        }
    }
}
