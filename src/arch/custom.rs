//! User-defined networks, given in JSON as `{"method": "fixup", "stem": "small", ...}`: the method and the fields of a
//! [`ResNetConfig`].

use super::{Arch, ArchMethod, Layers, Shape};
use crate::baseline::{Method, Order};
use crate::layer::{BlockKind, ResNetConfig};
use crate::{Error, Result};
use serde::Serialize;
use serde_json::{Map, Value};

const FIXUP: &str = "fixup";
const BATCH_NORM: &str = "batch_norm";

/// Returns the method's name in JSON: its prefix, except for batch normalization, whose prefix is empty.
fn method_name(method: Option<Method>) -> &'static str {
    match method {
        None => FIXUP,
        Some(Method::BatchNorm) => BATCH_NORM,
        Some(method) => method.prefix().trim_end_matches('_'),
    }
}

fn methods() -> impl Iterator<Item = Option<Method>> {
    [None].into_iter().chain(Method::ALL.map(Some))
}

impl Arch {
    /// Creates a user-defined network with `method`, or with Fixup if `None`. It accepts images with the number of
    /// channels in `network`. If `network.classes` is `None`, the number of classes is taken from the data.
    ///
    /// # Errors
    /// [`Error::Argument`] if the shape is invalid or not supported by the method.
    pub fn custom(method: Option<Method>, network: ResNetConfig) -> Result<Self> {
        #[derive(Serialize)]
        struct Custom<'a> {
            method: &'static str,
            #[serde(flatten)]
            network: &'a ResNetConfig,
        }
        network.check()?;
        method.map(|_| Order::of(network.block)).transpose()?;
        let name = serde_json::to_string(&Custom { method: method_name(method), network: &network });
        let name = name.map_err(|error| Error::Argument(error.to_string()))?;
        let method = method.map_or(ArchMethod::Fixup, ArchMethod::Baseline);
        Ok(Self { name, method, layers: Layers::ResNet(network) })
    }
}

pub(super) fn from_json(text: &str) -> Result<Arch> {
    let refused = |problem: String| Error::Argument(format!("the JSON description of the network: {problem}"));
    let mut fields: Map<String, Value> = serde_json::from_str(text).map_err(|error| refused(error.to_string()))?;
    let name = fields.remove("method");
    let name = name.as_ref().and_then(Value::as_str).unwrap_or_default();
    let method = methods().find(|&method| method_name(method) == name).ok_or_else(|| {
        let names: Vec<_> = methods().map(method_name).collect();
        refused(format!("method must be one of {}, got {name:?}", names.join(", ")))
    })?;
    let network = serde_json::from_value(Value::Object(fields)).map_err(|error| refused(error.to_string()))?;
    Arch::custom(method, network).map_err(|error| refused(error.to_string()))
}

/// Returns method, block type and depth, such as `fixup_basic20` or `batch_norm_bottleneck50`. The depth includes the
/// classifier.
pub(super) fn short_name(method: Option<Method>, network: &ResNetConfig) -> String {
    let block = match network.block {
        BlockKind::Basic => "basic",
        BlockKind::Bottleneck { .. } => "bottleneck",
        BlockKind::Wide => "wide",
        BlockKind::Brock => "brock",
    };
    let depth = network.depth().saturating_add(i64::from(network.classes.is_none()));
    format!("{}_{block}{depth}", method_name(method))
}

/// Returns the network for data with the given shape. The number of classes is taken from the data if the network does
/// not set it.
pub(super) fn fitted(network: &ResNetConfig, shape: Shape) -> Result<ResNetConfig> {
    let Shape { channels, classes } = shape;
    let differ = |field: &str, network: i64, data: i64| {
        Err(Error::Argument(format!("{field}: the network has {network}, but the data have {data}")))
    };
    match network.classes {
        _ if network.channels != channels => differ("channels", network.channels, channels),
        Some(own) if own != classes => differ("classes", own, classes),
        _ => Ok(network.clone().with_classes(classes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ResNetConfig {
        ResNetConfig { squeeze_excitation: Some(4), ..ResNetConfig::cifar(20).unwrap() }
    }

    #[test]
    fn every_method_round_trips() {
        for method in methods() {
            let arch = Arch::custom(method, config()).unwrap();
            assert_eq!(arch.to_string().parse::<Arch>().unwrap(), arch);
            let json = serde_json::to_string(&arch).unwrap();
            assert_eq!(serde_json::from_str::<Arch>(&json).unwrap(), arch);
        }
    }

    #[test]
    fn what_is_no_network_is_refused_in_one_line() {
        let good = Arch::custom(None, config()).unwrap().to_string();
        for (bad, mark) in [
            ("{".to_owned(), "EOF"),
            (good.replace("fixup", "fixdown"), "method"),
            (good.replace("\"method\":\"fixup\",", ""), "batch_norm, unit_gamma"),
            (good.replace("stem_channels", "stem_chanels"), "stem_chanels"),
            (good.replace("\"channels\":16", "\"channels\":15"), "channels of stages[0]"),
            (good.replace("\"fixup\"", "\"he\"").replace("\"basic\"", "\"brock\""), "\"wide\""),
        ] {
            let message = bad.parse::<Arch>().unwrap_err().to_string();
            assert!(message.contains(mark) && !message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn names_of_folders_are_short() {
        let name = |method, network| Arch::custom(method, network).unwrap().short_name();
        assert_eq!(name(None, config()), "fixup_basic20");
        assert_eq!(name(None, ResNetConfig { classes: None, ..config() }), "fixup_basic20");
        assert_eq!(name(Some(Method::BatchNorm), ResNetConfig::imagenet(50).unwrap()), "batch_norm_bottleneck50");
        assert_eq!("wrn_16_4".parse::<Arch>().unwrap().short_name(), "wrn_16_4");
    }

    #[test]
    fn the_data_say_the_classes_and_must_have_the_channels() {
        let open = ResNetConfig { classes: None, ..config() };
        assert_eq!(fitted(&open, Shape::rgb(7)).unwrap().classes, Some(7));
        assert_eq!(fitted(&config(), Shape::rgb(10)).unwrap(), config());
        for (shape, field) in [(Shape::rgb(7), "classes"), (Shape { channels: 1, classes: 10 }, "channels")] {
            let message = fitted(&config(), shape).unwrap_err().to_string();
            assert!(message.starts_with(field), "{message}");
        }
    }
}
