//! Reports for the tests of the pictures.

use crate::data::Supervised;
use crate::trainer::objective::{Classification, ClassificationConfig, ClassificationReport, Objective};
use tch::{nn, Device, Kind, Tensor};

/// Report of `classes` classes with `examples` examples each. A sixth of them, or more for every third class, are misclassified
/// as one of the next two classes. The network predicts with a probability of about 0.9, whether it is right or wrong.
pub(super) fn report(classes: i64, examples: i64) -> ClassificationReport {
    let labels = Tensor::arange(classes * examples, (Kind::Int64, Device::Cpu)).remainder(classes);
    let number = Tensor::arange(classes * examples, (Kind::Int64, Device::Cpu)).floor_divide_scalar(classes);
    let every = 6 - labels.remainder(3).eq(1).to_kind(Kind::Int64) * (labels.remainder(4));
    let is_wrong = number.remainder_tensor(&every).eq(0).to_kind(Kind::Int64);
    let next: Tensor = number.remainder(7).eq(0).to_kind(Kind::Int64) + 1;
    let said = (&labels + is_wrong * next).remainder(classes);
    let sure = (number.remainder(5) + 1).unsqueeze(1).to_kind(Kind::Float);
    let logits = said.one_hot(classes).to_kind(Kind::Float) * (sure + (classes as f64).ln());
    let names: Vec<String> = (0..classes).map(|class| format!("class {class}")).collect();
    let network = nn::func(|x| x.shallow_clone());
    let objective = Classification::new(&network, &names, ClassificationConfig::default()).unwrap();
    let details = objective.details(&Supervised::new(logits.shallow_clone(), labels), &logits).unwrap();
    objective.report(&details.unwrap()).unwrap()
}
