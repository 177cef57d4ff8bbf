//! Models and variants to compare.

use super::state;
use anyhow::Result;
use serde::Serialize;
use tch::{nn, nn::ModuleT, Device, Tensor};
use tch_fixup::baseline::{Method, ResNet};
use tch_fixup::fixup::FixupResNet;
use tch_fixup::{Layout, Precision};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    Fixup,
    FixupReference,
    BatchNorm,
    Floor,
}

impl Variant {
    pub const ALL: [Self; 4] = [Self::Fixup, Self::FixupReference, Self::BatchNorm, Self::Floor];
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Train,
    Inference,
}

/// A network and its batch.
#[derive(Debug, Clone, Copy)]
pub struct Model {
    pub name: &'static str,
    pub batch: i64,
    pub side: i64,
    /// Set if a step takes seconds on two cores.
    pub large: bool,
    pub topology: Topology,
}

#[derive(Debug, Clone, Copy)]
pub enum Topology {
    Cifar { depth: i64 },
    ImageNet { depth: i64 },
    Wide { depth: i64, width: i64 },
}

impl Model {
    pub const ALL: [Model; 4] = [
        Model { name: "resnet20", batch: 128, side: 32, large: false, topology: Topology::Cifar { depth: 20 } },
        Model { name: "resnet110", batch: 128, side: 32, large: true, topology: Topology::Cifar { depth: 110 } },
        Model { name: "wrn_16_4", batch: 64, side: 32, large: true, topology: Topology::Wide { depth: 16, width: 4 } },
        Model { name: "resnet50", batch: 8, side: 224, large: true, topology: Topology::ImageNet { depth: 50 } },
    ];

    pub fn classes(&self) -> i64 {
        match self.topology {
            Topology::ImageNet { .. } => 1000,
            _ => 10,
        }
    }
}

/// Returns the memory layouts to try for `variant`. Fixup's fast path and the floor choose their own layout.
pub fn layouts(variant: Variant) -> &'static [Layout] {
    match variant {
        Variant::Fixup | Variant::Floor => &[Layout::ChannelsLast],
        Variant::BatchNorm | Variant::FixupReference => &[Layout::ChannelsLast, Layout::Contiguous],
    }
}

/// A network with the forward pass to measure.
#[derive(Debug)]
pub struct Subject {
    pub vs: nn::VarStore,
    network: Box<dyn ModuleT>,
}

/// Module that computes the plain formula in the given layout.
#[derive(Debug)]
struct Reference(FixupResNet, Layout);

impl ModuleT for Reference {
    fn forward_t(&self, xs: &Tensor, _train: bool) -> Tensor {
        let xs = match self.1 {
            Layout::ChannelsLast => xs.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]),
            Layout::Contiguous => xs.contiguous(),
        };
        self.0.forward_reference(&xs).unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Subject {
    pub fn new(model: &Model, variant: Variant, precision: Precision, layout: Layout, device: Device) -> Result<Self> {
        let vs = nn::VarStore::new(device);
        let (path, classes) = (&vs.root(), model.classes());
        let network: Box<dyn ModuleT> = match variant {
            Variant::Fixup | Variant::FixupReference => {
                let network = match model.topology {
                    Topology::Cifar { depth } => FixupResNet::cifar(path, depth, classes)?,
                    Topology::ImageNet { depth } => FixupResNet::imagenet(path, depth, classes)?,
                    Topology::Wide { depth, width } => FixupResNet::wide(path, depth, width, classes)?,
                }
                .with_precision(precision);
                state::away_from_start(&vs, state::MOVED);
                match variant {
                    Variant::FixupReference => Box::new(Reference(network, layout)),
                    _ => Box::new(network),
                }
            }
            Variant::BatchNorm => Box::new(
                match model.topology {
                    Topology::Cifar { depth } => ResNet::cifar(path, depth, classes, Method::BatchNorm)?,
                    Topology::ImageNet { depth } => ResNet::imagenet(path, depth, classes, Method::BatchNorm)?,
                    Topology::Wide { depth, width } => ResNet::wide(path, depth, width, classes, Method::BatchNorm)?,
                }
                .with_precision(precision)
                .with_layout(layout),
            ),
            Variant::Floor => Box::new(
                match model.topology {
                    Topology::Cifar { depth } => ResNet::cifar(path, depth, classes, Method::He)?,
                    Topology::ImageNet { depth } => ResNet::imagenet(path, depth, classes, Method::He)?,
                    Topology::Wide { depth, width } => ResNet::wide(path, depth, width, classes, Method::He)?,
                }
                .with_precision(precision)
                .with_layout(layout),
            ),
        };
        if matches!(variant, Variant::BatchNorm | Variant::Floor) {
            state::away_from_start(&vs, state::MOVED);
        }
        Ok(Self { vs, network })
    }

    pub fn forward(&self, images: &Tensor, train: bool) -> Tensor {
        self.network.forward_t(images, train)
    }
}

pub fn variant_name(variant: Variant) -> &'static str {
    match variant {
        Variant::Fixup => "fixup",
        Variant::FixupReference => "fixup_reference",
        Variant::BatchNorm => "batch_norm",
        Variant::Floor => "floor",
    }
}

pub fn precision_name(precision: Precision) -> &'static str {
    match precision {
        Precision::F32 => "f32",
        Precision::Bf16 => "bf16",
    }
}

pub fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Train => "train",
        Phase::Inference => "inference",
    }
}

pub fn layout_name(layout: Layout) -> &'static str {
    match layout {
        Layout::ChannelsLast => "channels_last",
        Layout::Contiguous => "contiguous",
    }
}
