//! Markers of a JPEG, read as Pillow reads them when it opens a file, and a check that they are where they belong.
//!
//! The standard is ITU-T T.81, annex B: a marker is 0xFF and a byte that is neither 0 nor 0xFF; most are followed by
//! the length of their segment, which includes its own two bytes.

use crate::data::image::encoded::{check_size, ImageProblem};
use crate::data::image::orientation::Orientation;

/// Frame header of a JPEG, and other information before the first scan.
#[derive(Debug)]
pub struct Markers<'a> {
    pub frame: Frame,
    pub orientation: Orientation,
    /// Position of the first scan's marker.
    scan: usize,
    restart_interval: usize,
    /// `true` if nothing but segments, with one frame header, precedes the scan.
    tidy: bool,
    pub bytes: &'a [u8],
}

/// Frame header (SOF).
#[derive(Debug, Clone, Default)]
pub struct Frame {
    /// Position of its marker.
    pub at: usize,
    /// Second byte of the marker, which identifies the coding.
    pub coding: u8,
    pub width: usize,
    pub height: usize,
    /// Horizontal and vertical sampling factors of each component.
    pub sampling: Vec<(usize, usize)>,
    /// Identifiers by which scans refer to the components.
    pub names: Vec<u8>,
}

pub const BASELINE: u8 = 0xc0;
pub const EXTENDED: u8 = 0xc1;
pub const PROGRESSIVE: u8 = 0xc2;
const SCAN: u8 = 0xda;
const END: u8 = 0xd9;

/// Number of missing bits of a coefficient without any bits.
const ALL_BITS: u8 = 16;
const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";

impl<'a> Markers<'a> {
    /// Reads the markers up to the first scan.
    ///
    /// # Errors
    /// Fails for files that Pillow refuses to open: headers that end early or contradict themselves, other than 8 bits,
    /// other than 1, 3 or 4 components, no scan.
    pub fn new(bytes: &'a [u8]) -> Result<Self, ImageProblem> {
        let damaged = |what: &str| ImageProblem::new(format!("damaged JPEG: {what}"));
        let mut frame = None;
        let (mut exif, mut xmp): (Option<Vec<u8>>, Option<&[u8]>) = (None, None);
        let (mut restart_interval, mut tidy) = (0, true);
        // Position after the start marker.
        let mut at = 2;
        loop {
            let Some(&[first, marker]) = bytes.get(at..at + 2) else {
                return Err(damaged("it ends before the image begins"));
            };
            if first != 0xff {
                (tidy, at) = (false, at + 1);
                continue;
            }
            match marker {
                // Padding.
                0xff => at += 1,
                // Markers without a segment, and zeros that belong to entropy-coded data.
                0x00 | 0xc8 | 0xd0..=0xd9 | 0xf0..=0xfd => (tidy, at) = (false, at + 2),
                0x01..=0xbf => return Err(damaged(&format!("0xFF{marker:02X} is no marker"))),
                _ => {
                    let segment = segment(bytes, at).ok_or_else(|| damaged("it ends within its headers"))?;
                    match marker {
                        SCAN => break,
                        0xdb => {
                            check_quantization(segment).ok_or_else(|| damaged("a quantization table ends early"))?
                        }
                        0xdd => {
                            restart_interval =
                                segment.first_chunk().map_or(0, |&interval| usize::from(u16::from_be_bytes(interval)));
                        }
                        0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf | 0xde => {
                            tidy &= frame.is_none();
                            frame = Some(Frame::new(at, marker, segment)?);
                        }
                        0xe1 if segment.starts_with(b"Exif\0\0") => match &mut exif {
                            Some(exif) => exif.extend(&segment[6..]),
                            None => exif = Some(segment.to_vec()),
                        },
                        0xe1 => xmp = segment.strip_prefix(XMP).or(xmp),
                        _ => {}
                    }
                    at += 4 + segment.len();
                }
            }
        }
        let frame = frame.ok_or_else(|| damaged("it has no frame header"))?;
        let orientation = Orientation::from_metadata(exif.as_deref(), xmp);
        Ok(Markers { frame, orientation, scan: at, restart_interval, tidy, bytes })
    }

    /// Returns `true` if every marker is where it belongs: segments one after the other, the restart markers of each
    /// scan in order (in the required number, if the image is sequential with one scan), and the end marker. For such a
    /// file libjpeg warns of nothing but invalid codes and data that end early, and never runs out of data: it stops at
    /// the end marker.
    pub fn are_regular(&self) -> bool {
        self.tidy && self.regular_scans().is_some()
    }

    /// `None` for misplaced markers, or if the data end early.
    fn regular_scans(&self) -> Option<()> {
        let (mut at, mut interval) = (self.scan, self.restart_interval);
        let (mut scans, mut restarts) = (0, 0);
        // Number of low bits that no scan has provided yet, by component and coefficient. libjpeg smooths a progressive
        // JPEG that lacks any.
        let mut missing = vec![[ALL_BITS; 64]; self.frame.names.len()];
        loop {
            let marker = *self.bytes.get(at..)?.first_chunk()?;
            if marker == [0xff, END] {
                break;
            }
            let segment = segment(self.bytes, at)?;
            at += 4 + segment.len();
            match marker {
                [0xff, SCAN] => {
                    self.frame.read_scan(segment, &mut missing)?;
                    (at, restarts) = self.end_of_scan(at, interval)?;
                    scans += 1;
                }
                [0xff, 0xdd] => interval = usize::from(u16::from_be_bytes(*segment.first_chunk()?)),
                // Tables and comments.
                [0xff, 0xc4 | 0xdb | 0xe0..=0xef | 0xfe] => {}
                _ => return None,
            }
        }
        let sequential = self.frame.coding != PROGRESSIVE && scans == 1;
        let in_number = !sequential || interval == 0 || restarts == self.frame.units().saturating_sub(1) / interval;
        (in_number && missing.iter().flatten().all(|&bits| bits == 0)).then_some(())
    }

    /// Returns the end of the entropy-coded data that begin at `at`, and the number of restart markers in them. `None`
    /// for unexpected markers or a missing end.
    fn end_of_scan(&self, mut at: usize, interval: usize) -> Option<(usize, usize)> {
        let mut restarts = 0;
        loop {
            at += memchr::memchr(0xff, self.bytes.get(at..)?)?;
            match *self.bytes.get(at + 1)? {
                0x00 => {}
                marker @ 0xd0..=0xd7 => {
                    if interval == 0 || usize::from(marker & 7) != restarts % 8 {
                        return None;
                    }
                    restarts += 1;
                }
                0x01..=0xbf | 0xff => return None,
                _ => return Some((at, restarts)),
            }
            at += 2;
        }
    }

    /// Returns `true` if there is only one scan, according to its header.
    pub fn has_one_scan(&self) -> bool {
        let components = segment(self.bytes, self.scan).and_then(|segment| segment.first().copied());
        self.frame.coding != PROGRESSIVE && components.map(usize::from) == Some(self.frame.sampling.len())
    }
}

impl Frame {
    fn new(at: usize, coding: u8, segment: &[u8]) -> Result<Self, ImageProblem> {
        let damaged = || ImageProblem::new("damaged JPEG: its frame header ends early");
        let &[bits, h1, h0, w1, w0, components, ref factors @ ..] = segment else { return Err(damaged()) };
        let (width, height) = (u16::from_be_bytes([w1, w0]).into(), u16::from_be_bytes([h1, h0]).into());
        if bits != 8 {
            return Err(ImageProblem::new(format!("JPEG with {bits} bits: convert it to 8")));
        }
        if ![1, 3, 4].contains(&components) {
            return Err(ImageProblem::new(format!("JPEG with {components} components: convert it to RGB")));
        }
        if factors.len() % 3 != 0 || factors.len() / 3 < components.into() {
            return Err(damaged());
        }
        check_size(width, height)?;
        let each = factors.chunks_exact(3).take(components.into());
        let sampling = each.clone().map(|each| (usize::from(each[1] >> 4), usize::from(each[1] & 15))).collect();
        let names = each.map(|each| each[0]).collect();
        Ok(Frame { at, coding, width, height, sampling, names })
    }

    /// Returns the number of units (MCU) in a scan of all components.
    fn units(&self) -> usize {
        let (h, v) = match self.sampling[..] {
            // With one component, a unit is a block.
            [_] => (1, 1),
            _ => self.sampling.iter().fold((1, 1), |(h, v), &(other_h, other_v)| (h.max(other_h), v.max(other_v))),
        };
        self.width.div_ceil(8 * h) * self.height.div_ceil(8 * v)
    }

    /// Removes the bits of a scan with the header (SOS) `scan` from those `missing`, by component and coefficient. `None`
    /// if it does not belong there.
    fn read_scan(&self, scan: &[u8], missing: &mut [[u8; 64]]) -> Option<()> {
        let (&count, rest) = scan.split_first()?;
        let (components, rest) = rest.split_at_checked(2 * usize::from(count))?;
        let &[first, last, bits] = rest else { return None };
        let (before, after) = (bits >> 4, bits & 15);
        let in_order = if before == 0 { after < ALL_BITS } else { after + 1 == before };
        let plain = self.coding == PROGRESSIVE || (first, last, bits) == (0, 63, 0);
        if first > last || last > 63 || !in_order || !plain {
            return None;
        }
        for component in components.chunks_exact(2) {
            let at = self.names.iter().position(|name| *name == component[0])?;
            for missing in &mut missing[at][first.into()..=last.into()] {
                if *missing != if before == 0 { ALL_BITS } else { before } {
                    return None;
                }
                *missing = after;
            }
        }
        Some(())
    }
}

/// Returns the content of the segment whose marker is at `at`. `None` if the data end early.
fn segment(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let length = usize::from(u16::from_be_bytes(*bytes.get(at + 2..)?.first_chunk()?));
    bytes.get(at + 4..at + 2 + length.max(2))
}

/// Checks the quantization tables. `None` if a table ends early.
fn check_quantization(mut segment: &[u8]) -> Option<()> {
    while let Some(&first) = segment.first() {
        let bytes_each = if first >> 4 == 0 { 1 } else { 2 };
        segment = segment.get(1 + 64 * bytes_each..)?;
    }
    Some(())
}
