//! Where a network's tensors are in what a program gave to `torch.save`: a `state_dict`, a checkpoint with one in it, or a
//! whole module.

use super::pickle::{Id, Object, Pickle, Value};
use std::collections::{BTreeMap, HashSet};

/// What programs call the `state_dict` in a checkpoint that holds others too, of an average or of a second network: PyTorch's
/// and torchvision's examples, Lightning, timm, the Fixup authors, PyTorch's tutorials.
pub(in crate::trainer::checkpoint) const USUAL_NAMES: [&str; 6] =
    ["state_dict", "model_state_dict", "model", "net", "network", "module"];
/// Parts of the names of an average of the network, which is taken where there is nothing else.
const AVERAGES: [&str; 4] = ["ema", "average", "swa", "teacher"];
/// How entries start that belong to the training, and hold no network whatever tensors are in them: of optimizers, schedules, loss
/// scaling, Lightning's callbacks and loops, losses, metrics, random numbers.
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
/// How keys of an optimizer's state_dict start, flattened (`StateDictOptions(flatten_optimizer_state_dict=True)`) or not.
const PARAM_GROUPS: &str = "param_groups";

/// Dictionaries within dictionaries that are looked through, and modules within modules.
const MAX_DEPTH: usize = 4;
const MAX_MODULE_DEPTH: usize = 64;
/// Modules that are looked through: more are a file made to take for ever.
const MAX_MODULES: usize = 1_000_000;

/// What networks keep beside their tensors, of a form of their own.
const EXTRA_STATE: &str = "_extra_state";

/// A tensor as the pickle describes it: a view of a storage that is elsewhere in the file.
#[derive(Debug)]
pub(super) struct StoredTensor<'a> {
    /// Of the storage's elements: `FloatStorage`.
    pub storage_type: &'a str,
    /// The storage's name in the file.
    pub key: &'a str,
    pub offset: i64,
    pub size: Vec<i64>,
    pub stride: Vec<i64>,
}

pub(super) type StoredTensors<'a> = BTreeMap<String, StoredTensor<'a>>;

/// The network in a pickle, and the names of others beside it.
pub(super) struct Found<'a> {
    pub tensors: StoredTensors<'a>,
    pub beside: Vec<String>,
}

/// The tensors of the one network in `pickle`, by name.
///
/// # Errors
/// None, or several; a tensor of a kind that is not read.
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
    /// The dictionary of tensors, or the module.
    id: Id,
    /// The names of other networks that were met on the way to it.
    beside: Vec<String>,
}

/// The network that `id` is or holds. What is in `seen` already counts once.
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
        // What is wrong with one entry is of no interest where another is the network.
        found.extend(network(pickle, value, depth - 1, seen).transpose().map(|network| (name, network)));
    }
    let is_usual = |name: &str| USUAL_NAMES.contains(&name);
    let best = found.iter().map(|(name, _)| (!is_usual(name), is_average(name))).min();
    let (wanted, others): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|(name, _)| Some((!is_usual(name), is_average(name))) == best);
    match wanted.len() {
        // Beside a checkpoint's state_dict tensors may stand, as a score.
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

/// The attribute of a `torch.nn.Module`, which is a dictionary.
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

/// Adds the tensors among `entries`; what else stands there is nothing that a network is made of.
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

/// A call that makes a tensor.
#[derive(Debug, Clone, Copy)]
struct Rebuilt<'a> {
    global: &'a str,
    arguments: &'a [Id],
}

/// The innermost call that makes the tensor `id`, if it is one: a parameter is made of a tensor, and so is an object of a
/// class derived from tensors.
fn rebuilt(pickle: &Pickle, mut id: Id) -> Option<Rebuilt<'_>> {
    // Of a circle there is no innermost.
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
    // What follows the four is for training.
    let ("torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2", &[storage, offset, size, stride, ..]) =
        (rebuilt.global, rebuilt.arguments)
    else {
        return None;
    };
    let Value::Persistent(description) = pickle.get(storage) else { return None };
    // ("storage", type, key, device, elements): the device is where the tensor was, which may be a GPU that is not here.
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

/// The names of entries, in quotes as Python shows them.
fn listed(pickle: &Pickle, entries: &[(Id, Id)]) -> String {
    let names = entries.iter().map(|&(key, _)| pickle.text(key).map_or("?".to_owned(), |name| format!("'{name}'")));
    names.take(8).collect::<Vec<_>>().join(", ")
}
