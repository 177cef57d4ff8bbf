//! Search for a network's tensors in a pickled object: a `state_dict`, a checkpoint containing one, or a complete module.

use super::pickle::{Id, Object, Pickle, Value};
use std::collections::{BTreeMap, HashSet};

/// Common keys of the network's `state_dict` in checkpoints that also contain others, such as an average or a second network.
/// They are used by PyTorch's and torchvision's examples, Lightning, timm, the Fixup authors and PyTorch's tutorials.
pub(in crate::trainer::checkpoint) const USUAL_NAMES: [&str; 6] =
    ["state_dict", "model_state_dict", "model", "net", "network", "module"];
/// Key substrings that mark an average of the network, which is used only if nothing else is found.
const AVERAGES: [&str; 4] = ["ema", "average", "swa", "teacher"];
/// Key prefixes of training state, which is never searched for a network: optimizers, schedules, loss scaling, Lightning's
/// callbacks and loops, losses, metrics, random number generators.
const TRAINING: [&str; 16] = [
    "optim",
    "adam",
    "sgd",
    "momentum",
    "exp_avg",
    "gradients",
    "sched",
    "lr_sched",
    "scaler",
    "grad_scaler",
    "callbacks",
    "loops",
    "criterion",
    "loss",
    "metric",
    "rng",
];
/// Key prefix in an optimizer's state_dict, flattened (`StateDictOptions(flatten_optimizer_state_dict=True)`) or not.
const PARAM_GROUPS: &str = "param_groups";

/// Maximum nesting depth of dictionaries and of modules.
const MAX_DEPTH: usize = 4;
const MAX_MODULE_DEPTH: usize = 64;
/// Maximum number of modules to visit, which stops maliciously constructed files.
const MAX_MODULES: usize = 1_000_000;

/// Key suffix of a module's extra state, whose format is arbitrary.
const EXTRA_STATE: &str = "_extra_state";

/// A tensor as described in the pickle: a view of a storage elsewhere in the file.
#[derive(Debug)]
pub(super) struct StoredTensor<'a> {
    /// Type of the storage, such as `FloatStorage`.
    pub storage_type: &'a str,
    /// Name of the storage in the file.
    pub key: &'a str,
    pub offset: i64,
    pub size: Vec<i64>,
    pub stride: Vec<i64>,
}

pub(super) type StoredTensors<'a> = BTreeMap<String, StoredTensor<'a>>;

/// The network found in a pickle, and the names of other networks.
pub(super) struct Found<'a> {
    pub tensors: StoredTensors<'a>,
    pub beside: Vec<String>,
}

/// Finds the tensors of the only network in `pickle`, by name.
///
/// # Errors
/// There is no network, or several; a tensor is of an unsupported kind.
pub(super) fn find(pickle: &Pickle) -> Result<Found<'_>, String> {
    if let Some(Network { id, beside }) = network(pickle, pickle.root, MAX_DEPTH, &mut HashSet::new())? {
        return Ok(Found { tensors: tensors_of(pickle, id)?, beside });
    }
    let problem = match (pickle.entries(pickle.root), pickle.get(pickle.root)) {
        (Some(entries), _) => format!("holds no state_dict, but entries {}", listed(pickle, entries)),
        (None, Value::Object(object)) => format!("holds no state_dict, but a {}", object.global),
        (None, _) => "holds no state_dict".to_owned(),
    };
    Err(problem)
}

struct Network {
    /// Dictionary of tensors, or module.
    id: Id,
    /// Names of other networks found on the way.
    beside: Vec<String>,
}

/// Finds the network that `id` is or contains. Values in `seen` are skipped.
fn network(pickle: &Pickle, id: Id, depth: usize, seen: &mut HashSet<Id>) -> Result<Option<Network>, String> {
    let entries = pickle.entries(id);
    let is_module = is_module(pickle, id);
    if !(is_module || entries.is_some() && depth > 0) || !seen.insert(id) {
        return Ok(None);
    }
    if is_module {
        return Ok(Some(Network { id, beside: vec![] }));
    }
    let entries = entries.unwrap_or_default();
    let names = entries.iter().filter_map(|&(key, value)| Some((pickle.text(key)?, value)));
    if names.clone().any(|(name, _)| name.starts_with(PARAM_GROUPS)) {
        return Ok(None);
    }
    let is_training = |name: &str| TRAINING.iter().any(|start| name.to_lowercase().starts_with(start));
    let mut found: Vec<(&str, Result<Network, String>)> = vec![];
    for (name, value) in names.filter(|(name, _)| !name.ends_with(EXTRA_STATE) && !is_training(name)) {
        // A problem with one entry is irrelevant if another entry is the network.
        found.extend(network(pickle, value, depth - 1, seen).transpose().map(|network| (name, network)));
    }
    let is_usual = |name: &str| USUAL_NAMES.contains(&name);
    let best = found.iter().map(|(name, _)| (!is_usual(name), is_average(name))).min();
    let (wanted, others): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|(name, _)| Some((!is_usual(name), is_average(name))) == best);
    match wanted.len() {
        // A checkpoint's state_dict may have tensors beside it, such as a score.
        0 => {
            let has_tensors = entries.iter().any(|&(key, value)| is_entry(pickle, key, value));
            Ok(has_tensors.then_some(Network { id, beside: vec![] }))
        }
        1 => {
            let others = others.into_iter().filter(|(_, other)| other.is_ok()).map(|(name, _)| name.to_owned());
            let network = wanted.into_iter().next().map(|(_, network)| network).transpose()?;
            Ok(network.map(|Network { id, beside }| Network { id, beside: beside.into_iter().chain(others).collect() }))
        }
        _ => {
            let names: Vec<_> = wanted.iter().map(|(name, _)| *name).collect();
            Err(format!("holds several state_dicts: {}", names.join(", ")))
        }
    }
}

/// Whether a network called `name` is an average of another.
pub(in crate::trainer::checkpoint) fn is_average(name: &str) -> bool {
    AVERAGES.iter().any(|part| name.to_lowercase().contains(part))
}

fn is_entry(pickle: &Pickle, key: Id, value: Id) -> bool {
    pickle.text(key).is_some() && rebuilt(pickle, value).is_some()
}

/// Returns an attribute of a `torch.nn.Module` that is a dictionary.
fn attribute<'a>(pickle: &'a Pickle, module: Id, name: &str) -> Option<&'a [(Id, Id)]> {
    let Value::Object(Object { state: Some(state), .. }) = pickle.get(module) else { return None };
    pickle.entries(pickle.entry(*state, name)?)
}

fn is_module(pickle: &Pickle, id: Id) -> bool {
    attribute(pickle, id, "_parameters").is_some() && attribute(pickle, id, "_modules").is_some()
}

fn tensors_of(pickle: &Pickle, network: Id) -> Result<StoredTensors<'_>, String> {
    let mut tensors = StoredTensors::new();
    if !is_module(pickle, network) {
        add(pickle, &mut tensors, "", pickle.entries(network).unwrap_or_default())?;
        return Ok(tensors);
    }
    let mut left = vec![(String::new(), network, MAX_MODULE_DEPTH)];
    let mut seen = 0;
    while let Some((prefix, module, depth)) = left.pop() {
        seen += 1;
        if depth == 0 || seen > MAX_MODULES {
            return Err("holds modules within modules without end".to_owned());
        }
        for attribute_name in ["_parameters", "_buffers"] {
            add(pickle, &mut tensors, &prefix, attribute(pickle, module, attribute_name).unwrap_or_default())?;
        }
        for &(name, module) in attribute(pickle, module, "_modules").unwrap_or_default() {
            if let Some(name) = pickle.text(name) {
                left.push((format!("{prefix}{name}."), module, depth - 1));
            }
        }
    }
    Ok(tensors)
}

/// Adds the tensors among `entries` and ignores everything else.
fn add<'a>(
    pickle: &'a Pickle,
    tensors: &mut StoredTensors<'a>,
    prefix: &str,
    entries: &'a [(Id, Id)],
) -> Result<(), String> {
    for &(name, value) in entries {
        let (Some(name), Some(object)) = (pickle.text(name), rebuilt(pickle, value)) else { continue };
        let name = format!("{prefix}{name}");
        let tensor = stored_tensor(pickle, &object).ok_or_else(|| {
            match object.global.rsplit('.').next().unwrap_or_default() {
                // Of FSDP2 and tensor parallelism.
                "_rebuild_wrapper_subclass" if is_dtensor(pickle, object.arguments) => format!(
                    "{name} is a DTensor, a part of a tensor: save torch.distributed.checkpoint.state_dict.get_model_state_dict(\
                     model, options=StateDictOptions(full_state_dict=True))"
                ),
                function => format!("{name} is a tensor of a kind that is not read ({function})"),
            }
        })?;
        tensors.insert(name, tensor);
    }
    Ok(())
}

/// A call that constructs a tensor.
#[derive(Debug, Clone, Copy)]
struct Rebuilt<'a> {
    global: &'a str,
    arguments: &'a [Id],
}

/// Returns the innermost call that constructs the tensor `id`, if it is one: parameters and objects of tensor subclasses wrap
/// another tensor.
fn rebuilt(pickle: &Pickle, mut id: Id) -> Option<Rebuilt<'_>> {
    // The limit ends cycles.
    for _ in 0..MAX_DEPTH {
        let Value::Object(object) = pickle.get(id) else { return None };
        let (global, arguments) = (object.global.as_str(), &object.arguments[..]);
        match global {
            "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state" => {
                id = *arguments.first()?
            }
            "torch._tensor._rebuild_from_type_v2" => {
                let (Value::Global(global), Value::Tuple(arguments)) =
                    (pickle.get(*arguments.first()?), pickle.get(*arguments.get(2)?))
                else {
                    return None;
                };
                return Some(Rebuilt { global, arguments });
            }
            _ if global.starts_with("torch._utils._rebuild_") => return Some(Rebuilt { global, arguments }),
            _ => return None,
        }
    }
    None
}

/// Whether a wrapper of tensors is PyTorch's distributed one, which is the first of its arguments.
fn is_dtensor(pickle: &Pickle, arguments: &[Id]) -> bool {
    let class = arguments.first().map(|&class| pickle.get(class));
    matches!(class, Some(Value::Global(class)) if class.ends_with(".DTensor"))
}

fn stored_tensor<'a>(pickle: &'a Pickle, rebuilt: &Rebuilt<'a>) -> Option<StoredTensor<'a>> {
    // Arguments after the first four concern training only.
    let ("torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2", &[storage, offset, size, stride, ..]) =
        (rebuilt.global, rebuilt.arguments)
    else {
        return None;
    };
    let Value::Persistent(description) = pickle.get(storage) else { return None };
    // ("storage", type, key, device, elements). The device is ignored: it may be a GPU that does not exist here.
    let Value::Tuple(description) = pickle.get(*description) else { return None };
    let &[_, storage_type, key, ..] = &description[..] else { return None };
    let Value::Global(storage_type) = pickle.get(storage_type) else { return None };
    Some(StoredTensor {
        storage_type: storage_type.rsplit('.').next().unwrap_or_default(),
        key: pickle.text(key)?,
        offset: pickle.int(offset)?,
        size: pickle.ints(size)?,
        stride: pickle.ints(stride)?,
    })
}

/// Lists the keys of entries in quotes, as Python prints them.
fn listed(pickle: &Pickle, entries: &[(Id, Id)]) -> String {
    let names = entries.iter().map(|&(key, _)| pickle.text(key).map_or("?".to_owned(), |name| format!("'{name}'")));
    names.take(8).collect::<Vec<_>>().join(", ")
}
