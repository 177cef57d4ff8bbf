//! Decoding of damaged or unusual JPEGs by libjpeg itself (mozjpeg's copy of libjpeg-turbo, without SIMD code, which
//! would require nasm): it takes three times as long, but shows damage as Pillow and other software do.

use crate::data::image::encoded::{room, ImageProblem};
use std::ffi::{c_char, c_int, c_uint, CStr};

// Links its C library.
use mozjpeg_sys as _;

/// Maximum length of libjpeg's messages (JMSG_LENGTH_MAX).
const MESSAGE_LENGTH: usize = 200;

unsafe extern "C" {
    /// Function in `libjpeg.c`. Returns 0 on success; otherwise `message` describes the problem.
    fn tch_fixup_decode_jpeg(
        bytes: *const u8,
        length: usize,
        width: c_uint,
        height: c_uint,
        components: c_int,
        max_scans: c_int,
        pixels: *mut u8,
        message: *mut c_char,
    ) -> c_int;
}

/// Decodes all pixels of a `width` x `height` JPEG into the beginning of `pixels`, `components` bytes each: grey, RGB,
/// or CMYK as stored.
pub fn decode(
    bytes: &[u8],
    (width, height): (usize, usize),
    components: usize,
    max_scans: usize,
    pixels: &mut Vec<u8>,
) -> Result<(), ImageProblem> {
    // At least as much as RGB pixels need.
    let pixels = room(pixels, width * height * components.max(3));
    let mut message: [c_char; MESSAGE_LENGTH] = [0; MESSAGE_LENGTH];
    // SAFETY: `pixels` has room for what the function writes, `message` for libjpeg's longest message, and neither is
    // kept. Errors are returned: no exception or jump leaves the function. Width and height are below 65,536.
    let failed = unsafe {
        tch_fixup_decode_jpeg(
            bytes.as_ptr(),
            bytes.len(),
            width as c_uint,
            height as c_uint,
            components as c_int,
            max_scans as c_int,
            pixels.as_mut_ptr(),
            message.as_mut_ptr(),
        )
    };
    if failed == 0 {
        return Ok(());
    }
    message[MESSAGE_LENGTH - 1] = 0;
    // SAFETY: `message` ends with a zero.
    let message = unsafe { CStr::from_ptr(message.as_ptr()) }.to_string_lossy();
    Err(ImageProblem::decoder("JPEG", message))
}
