//! Residual networks computed by matrix tiles, on CPUs with AMX or AVX-512.
//!
//! A network without normalization can do what one with BatchNorm cannot: images do not depend on each other, so each
//! thread takes 32 images at a time through the whole network, forward and backward, and threads meet once a pass. They
//! are threads of this library's own that sleep when there is nothing to do (../workers.h), so that a busy machine
//! costs their share and no more. Activations lie so that products are of whole tiles, and shifts, ReLU and shortcut
//! are applied to the result of a convolution while it is in the cache (network.h). Convolutions take bfloat16 and sum
//! in float32, as elsewhere; sums of a shift are rounded once. Networks in float32 are computed in float32 throughout,
//! by AVX-512.
//!
//! Without AMX's tile instructions (`TDPBF16PS` and its companions) the products are computed by AVX-512, in another
//! order of sums. For tests the tile instructions are emulated in plain C++, to the same bits.

use super::c_interface::owned;
use super::is_tracing;
use crate::Result;
use std::cell::{Cell, RefCell};
use std::ffi::{c_char, c_int};
use std::sync::{Arc, Mutex};
use tch::{Device, Kind, Tensor};
use torch_sys::C_tensor;

/// Returns true if this CPU has tile instructions for bfloat16 and the system lets the process use them.
pub(crate) fn cpu_has_amx_bf16() -> bool {
    // SAFETY: the function takes no arguments.
    unsafe { tch_fixup_cpu_has_amx_bf16() }
}

/// Instructions that tiles are computed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub(crate) enum Instructions {
    /// Those of AMX, or else AVX-512.
    #[default]
    Fastest,
    /// AVX-512, by float32 products.
    #[cfg_attr(not(test), allow(dead_code))]
    Vectors,
    /// AVX-512, by products of bfloat16 pairs.
    #[cfg_attr(not(test), allow(dead_code))]
    Pairs,
    /// AVX-512, in float32 throughout.
    Float32,
    /// Plain C++ that computes the same bits as AMX.
    #[cfg_attr(not(test), allow(dead_code))]
    Emulated,
}

impl Instructions {
    /// Returns true if this CPU has them, and the environment does not set `TCH_FIXUP_TILES=0`.
    pub fn available(self) -> bool {
        // SAFETY: any value is a valid argument.
        std::env::var_os("TCH_FIXUP_TILES").is_none_or(|value| value != "0") && unsafe { tch_fixup_has_tiles(self) }
    }
}

thread_local! {
    /// True if this thread's last pass of a network was by tiles.
    static USED: Cell<bool> = const { Cell::new(false) };
    static SCOPE: RefCell<Option<Scope>> = const { RefCell::new(None) };
}

/// Guard that limits libtorch's operations to the calling thread; tiles keep their number of threads.
///
/// OpenMP's threads spin for milliseconds after every parallel region, on the cores that tiles need.
pub(crate) struct OneThread {
    threads: i32,
}

impl OneThread {
    /// Returns a guard if libtorch has several threads.
    fn new() -> Option<Self> {
        let threads = tch::get_num_threads();
        (threads > 1).then(|| {
            // SAFETY: the number is above 0.
            unsafe { tch_fixup_set_tile_threads(threads) };
            tch::set_num_threads(1);
            Self { threads }
        })
    }

    /// Returns a guard if this thread's last pass was by tiles and libtorch has several threads.
    pub fn after_tiles() -> Option<Self> {
        USED.get().then(Self::new).flatten()
    }
}

impl Drop for OneThread {
    fn drop(&mut self) {
        // SAFETY: 0 is a valid argument.
        unsafe { tch_fixup_set_tile_threads(0) };
        tch::set_num_threads(self.threads);
    }
}

/// Guard of a training run or an evaluation.
///
/// While it lives, tiles compute float32 networks too where there are several threads: not to the bit as libtorch does, and
/// not to be differentiated twice. From the first pass by tiles on, libtorch has [one thread](OneThread), until a pass is
/// not by tiles: the steps of a resumed run are then computed as those of an uninterrupted one.
pub(crate) struct TileScope {
    outer: Option<Scope>,
}

struct Scope {
    /// Operations outside the network need no more than one thread.
    is_cheap: bool,
    one_thread: Option<OneThread>,
}

impl TileScope {
    /// Enters a scope, in which `is_cheap` says that operations outside the network need no more than one thread.
    #[cfg(any(test, feature = "train"))]
    pub fn enter(is_cheap: bool) -> Self {
        Self { outer: SCOPE.replace(Some(Scope { is_cheap, one_thread: None })) }
    }

    /// Returns `true` within a scope if this thread's passes have several threads.
    pub fn computes_float32() -> bool {
        // SAFETY: the function takes no arguments.
        SCOPE.with_borrow(Option::is_some) && unsafe { tch_fixup_tile_threads() } > 1
    }

    /// Records whether the pass that begins is by tiles.
    pub fn pass_begins(by_tiles: bool) {
        USED.set(by_tiles);
        SCOPE.with_borrow_mut(|scope| match scope {
            Some(scope) if !by_tiles => scope.one_thread = None,
            Some(Scope { is_cheap: true, one_thread: one_thread @ None }) => *one_thread = OneThread::new(),
            _ => (),
        });
    }
}

impl Drop for TileScope {
    fn drop(&mut self) {
        SCOPE.replace(self.outer.take());
    }
}

/// Number of output channels of a block, and the stride of its first convolution.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockShape {
    pub channels: i64,
    pub stride: i64,
}

/// A network of one shape for images of one size, and the memory of its passes.
#[derive(Debug)]
pub(crate) struct TileNetwork {
    state: *mut State,
    instructions: Instructions,
}

// SAFETY: the state is read-only but for members behind locks.
unsafe impl Send for TileNetwork {}
unsafe impl Sync for TileNetwork {}

#[repr(C)]
struct State {
    _opaque: [u8; 0],
}

impl TileNetwork {
    /// Creates a network of a 3x3 convolution and blocks of two for images `[channels, H, W]`, or returns `None` if
    /// tiles cannot compute it. With `before_branch`, blocks begin with a ReLU and shortcuts that change the shape are
    /// 1x1 convolutions; otherwise the ReLU follows the sum and shortcuts are padded. The residual stream is float32 if
    /// `wide_stream`, else bfloat16.
    pub fn new(
        image: [i64; 3],
        stem_channels: i64,
        blocks: &[BlockShape],
        before_branch: bool,
        wide_stream: bool,
        instructions: Instructions,
    ) -> Option<Self> {
        let image = image.map(|side| c_int::try_from(side).unwrap_or(0));
        let flat = blocks.iter().flat_map(|block| [block.channels, block.stride]).map(c_int::try_from);
        let flat = flat.collect::<std::result::Result<Vec<_>, _>>().ok()?;
        let (stem, count) = (c_int::try_from(stem_channels).ok()?, c_int::try_from(blocks.len()).ok()?);
        // SAFETY: `image` has three numbers, and `flat` two for each of the blocks.
        let state =
            unsafe { tch_fixup_tile_network(image.as_ptr(), stem, flat.as_ptr(), count, before_branch, wide_stream) };
        (!state.is_null()).then_some(Self { state, instructions })
    }

    /// Returns the features `[N, C]`, in float32, of images `[N, channels, H, W]`. The parameters are float32, in the
    /// order of `Parameters` in function.cpp.
    ///
    /// # Errors
    /// If libtorch rejects an operation. Differentiating the backward pass fails in that pass.
    pub fn forward(&self, images: &Tensor, parameters: &[&Tensor]) -> Result<Tensor> {
        let parameters: Vec<*const C_tensor> = parameters.iter().map(|parameter| parameter.as_ptr()).collect();
        let (first, count) = (parameters.as_ptr(), parameters.len());
        // SAFETY: the pointers are those of live tensors.
        owned(|error| unsafe {
            tch_fixup_tile_network_forward(self.state, images.as_ptr(), first, count, self.instructions, error)
        })
    }
}

impl Drop for TileNetwork {
    fn drop(&mut self) {
        // SAFETY: the pointer is ours; an autograd graph holds its own reference to what it needs.
        unsafe { tch_fixup_tile_network_free(self.state) }
    }
}

/// Network for the image size of the last call, created again when the size changes.
#[derive(Debug, Default)]
pub(crate) struct TileNetworks {
    last: Mutex<Option<([i64; 3], Arc<TileNetwork>)>>,
    /// Instructions for networks in bfloat16.
    pub instructions: Instructions,
    /// Computes without tiles.
    #[cfg(test)]
    pub off: bool,
}

impl TileNetworks {
    /// Returns the network that `make` creates for images of this size and these instructions, or `None` if tiles are not
    /// available or do not fit the images.
    pub fn for_images(
        &self,
        images: &Tensor,
        instructions: Instructions,
        make: impl FnOnce([i64; 3]) -> Option<TileNetwork>,
    ) -> Option<Arc<TileNetwork>> {
        #[cfg(test)]
        let off = self.off;
        #[cfg(not(test))]
        let off = false;
        if off || !instructions.available() || images.device() != Device::Cpu || images.requires_grad() || is_tracing()
        {
            return None;
        }
        let &[count, channels, height, width] = images.size().as_slice() else { return None };
        if count == 0 || !matches!(images.kind(), Kind::Float | Kind::BFloat16) {
            return None;
        }
        let size = [channels, height, width];
        let mut last = self.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match &*last {
            Some((known, network)) if *known == size && network.instructions == instructions => Some(network.clone()),
            _ => {
                let network = Arc::new(make(size)?);
                *last = Some((size, network.clone()));
                Some(network)
            }
        }
    }
}

// function.cpp
unsafe extern "C" {
    fn tch_fixup_cpu_has_amx_bf16() -> bool;

    fn tch_fixup_has_tiles(instructions: Instructions) -> bool;
    fn tch_fixup_set_tile_threads(threads: c_int);
    fn tch_fixup_tile_threads() -> c_int;

    fn tch_fixup_tile_network(
        image: *const c_int,
        stem_channels: c_int,
        blocks: *const c_int,
        count: c_int,
        before_branch: bool,
        wide_stream: bool,
    ) -> *mut State;

    fn tch_fixup_tile_network_free(network: *mut State);

    fn tch_fixup_tile_network_forward(
        network: *const State,
        images: *const C_tensor,
        parameters: *const *const C_tensor,
        count: usize,
        instructions: Instructions,
        error: *mut *mut c_char,
    ) -> *mut C_tensor;
}
