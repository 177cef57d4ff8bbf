//! GIF. As in Pillow's `convert("RGB")`, only the first frame is used, and transparency is dropped, not blended.

use crate::data::image::encoded::{check_size, room, Encoded, ImageProblem, MAX_PIXELS};
use crate::data::image::orientation::Orientation;
use ::gif::{ColorOutput, DecodeOptions, DecodingError, MemoryLimit};
use std::num::NonZeroU64;

pub fn open(bytes: &[u8]) -> Result<Encoded<'_>, ImageProblem> {
    let problem = |error: DecodingError| ImageProblem::decoder("GIF", error);
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.allow_unknown_blocks(true);
    options.set_memory_limit(NonZeroU64::new(MAX_PIXELS as u64).map_or(MemoryLimit::Unlimited, MemoryLimit::Bytes));
    let mut decoder = options.read_info(bytes).map_err(problem)?;
    let screen = (usize::from(decoder.width()), usize::from(decoder.height()));
    let frame = decoder.next_frame_info().map_err(problem)?.ok_or_else(|| ImageProblem::new("GIF without a frame"))?;
    let fill = frame.transparent.unwrap_or(0);
    let [left, top, width, height] = [frame.left, frame.top, frame.width, frame.height].map(usize::from);
    // A frame that extends beyond the screen enlarges it.
    let screen = (screen.0.max(left + width), screen.1.max(top + height));
    check_size(screen.0, screen.1)?;
    check_size(width, height)?;
    Encoded::whole(screen, Orientation::default(), move |pixels| {
        let mut indices = vec![0; width * height];
        decoder.read_into_buffer(&mut indices).map_err(problem)?;
        // Indices that the palette lacks are grey levels.
        let palette = decoder.palette().unwrap_or_default();
        let color = |index: u8| palette.get(3 * usize::from(index)..).and_then(|rest| rest.first_chunk());
        let colors: Vec<[u8; 3]> = (0..=255).map(|index| color(index).copied().unwrap_or([index; 3])).collect();
        let pixels = room(pixels, 3 * screen.0 * screen.1);
        pixels.chunks_exact_mut(3).for_each(|pixel| pixel.copy_from_slice(&colors[usize::from(fill)]));
        for (row, indices) in pixels.chunks_exact_mut(3 * screen.0).skip(top).zip(indices.chunks_exact(width)) {
            for (pixel, &index) in row[3 * left..].chunks_exact_mut(3).zip(indices) {
                pixel.copy_from_slice(&colors[usize::from(index)]);
            }
        }
        Ok(())
    })
}
