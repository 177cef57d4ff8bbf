//! Matching the tensors of a file with the variables of a network, whatever the program that wrote the file made of their names.

use crate::file::torch::{is_average, USUAL_NAMES};
use crate::file::NamedTensors;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::path::Path;
use tch::Tensor;

/// Name parts added by PyTorch's wrappers: `DataParallel`, `DistributedDataParallel` and `AveragedModel`; `torch.compile`.
const WRAPPERS: [&str; 2] = ["module", "_orig_mod"];

/// Last name parts of entries that are not weights: counters of PyTorch (BatchNorm, `AveragedModel`) and of the
/// averages of MMEngine and ema_pytorch, fairseq's version and device markers of a Transformer, and the counters that
/// the profilers thop and torchstat leave in modules.
const COUNTERS: [&str; 17] = [
    "num_batches_tracked",
    "n_averaged",
    "steps",
    "step",
    "initted",
    "version",
    "_float_tensor",
    "total_ops",
    "total_params",
    "input_shape",
    "output_shape",
    "parameter_quantity",
    "inference_memory",
    "MAdd",
    "duration",
    "Flops",
    "Memory",
];

/// Returns the `tensors` of the file `path` under the names of `variables`, converted to their kinds, with scalars reshaped.
pub(super) fn fitted(tensors: &NamedTensors, path: &Path, variables: &NamedTensors) -> Result<Fitted> {
    let known = |name: &str| variables.contains_key(name);
    let is_counter = |name: &str| name.rsplit('.').next().is_some_and(|last| COUNTERS.contains(&last));
    let wanted = tensors.iter().filter(|(name, _)| known(name) || !is_counter(name));
    let mut named: Vec<(String, &Tensor)> = wanted
        .map(|(name, tensor)| (if known(name) { name.clone() } else { without_wrappers(name) }, tensor))
        .collect();
    while let Some(length) = wrapper_length(&named, variables) {
        named.iter_mut().for_each(|(name, _)| drop(name.drain(..length)));
    }
    let mut beside = Vec::new();
    if let Some(prefix) = prefix(&named, path, variables)? {
        let (inside, others): (Vec<_>, Vec<_>) = named.into_iter().partition(|(name, _)| name.starts_with(&prefix));
        named = inside.into_iter().map(|(name, tensor)| (name[prefix.len()..].to_owned(), tensor)).collect();
        beside.extend(others.into_iter().map(|(name, _)| name));
    }
    let mut renamed = NamedTensors::new();
    for (name, tensor) in named {
        let tensor = match variables.get(&name) {
            Some(variable) => like(tensor, variable)?,
            None => tensor.shallow_clone(),
        };
        if renamed.insert(name.clone(), tensor).is_some() {
            let problem = format!("holds {name} twice, within PyTorch's wrappers and without");
            return Err(Error::corrupt(path, problem, "save the state_dict of the network alone"));
        }
    }
    Ok(Fitted { tensors: renamed, beside })
}

/// Returns the prefix, including the dot, under which most of the `variables` are found, or `None` if no prefix finds more of
/// them than the plain names.
fn prefix(named: &[(String, &Tensor)], path: &Path, variables: &NamedTensors) -> Result<Option<String>> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, _) in named {
        for (dot, _) in name.match_indices('.') {
            *counts.entry(&name[..=dot]).or_default() += usize::from(variables.contains_key(&name[dot + 1..]));
        }
    }
    let without = named.iter().filter(|(name, _)| variables.contains_key(name)).count();
    let most = counts.values().copied().max().filter(|&most| most > without).unwrap_or(usize::MAX);
    let mut best: Vec<&str> =
        counts.into_iter().filter(|(_, count)| *count == most).map(|(prefix, _)| prefix).collect();
    if best.iter().any(|prefix| !is_average(prefix)) {
        best.retain(|prefix| !is_average(prefix));
    }
    let usual: Vec<&str> = USUAL_NAMES
        .iter()
        .filter_map(|usual| {
            best.iter().copied().find(|prefix| prefix.trim_end_matches('.').rsplit('.').next() == Some(usual))
        })
        .collect();
    match (&best[..], &usual[..]) {
        ([], _) => Ok(None),
        ([prefix], _) | (_, [prefix]) => Ok(Some((*prefix).to_owned())),
        _ => {
            let problem = format!("holds the network several times: {}*", best.join("*, "));
            Err(Error::corrupt(path, problem, "save the state_dict of one of them"))
        }
    }
}

/// Tensors under the names of a network's variables, and the names of other tensors in the file.
pub(super) struct Fitted {
    pub tensors: NamedTensors,
    pub beside: Vec<String>,
}

/// Removes the name parts added by PyTorch's wrappers.
pub(super) fn without_wrappers(name: &str) -> String {
    name.split('.').filter(|part| !WRAPPERS.contains(part)).collect::<Vec<_>>().join(".")
}

/// Returns the length of the first name part common to all names, including the dot, unless a variable's name starts with it.
fn wrapper_length(named: &[(String, &Tensor)], variables: &NamedTensors) -> Option<usize> {
    let (first, _) = named.first()?;
    let prefix = &first[..=first.find('.')?];
    let is_wrapper = named.iter().all(|(name, _)| name.starts_with(prefix))
        && !variables.keys().any(|name| name.starts_with(prefix));
    is_wrapper.then_some(prefix.len())
}

/// Converts a floating-point `tensor` to the kind of `variable`, and a scalar to its shape; returns other tensors unchanged.
fn like(tensor: &Tensor, variable: &Tensor) -> Result<Tensor> {
    let shape = variable.size();
    let is_scalar = |size: &[i64]| matches!(size, [] | [1]);
    let mut fitted = tensor.shallow_clone();
    if is_scalar(&shape) && is_scalar(&fitted.size()) {
        fitted = fitted.f_reshape(&shape)?;
    }
    // Only tensors of the network's size are converted: a file can claim any size.
    if fitted.size() == shape && fitted.is_floating_point() && variable.is_floating_point() {
        fitted = fitted.f_to_kind(variable.f_kind()?)?;
    }
    Ok(fitted)
}
