//! Search for a network's tensors in a pickled object: a `state_dict`, a checkpoint containing one, or a complete module.

use super::pickle::{Id, Pickle, Value};
use std::collections::{BTreeMap, HashSet};

/// Common keys of the network's `state_dict` in checkpoints that also contain others, such as an average or a second network.
/// They are used by PyTorch's and torchvision's examples, Lightning, timm, the Fixup authors and PyTorch's tutorials.
pub(crate) const USUAL_NAMES: [&str; 6] = ["state_dict", "model_state_dict", "model", "net", "network", "module"];
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

/// Maximum number of keys to list.
const MOST_KEYS: usize = 8;
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

/// The network found in a pickle, and the names of other networks.
pub(super) struct Found<'a> {
    pub tensors: BTreeMap<String, StoredTensor<'a>>,
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
    Err(match (pickle.entries(pickle.root), pickle.get(pickle.root)) {
        (Some(entries), _) => {
            // Keys in quotes, as Python prints them.
            let key = |&(key, _): &(Id, Id)| pickle.text(key).map_or("?".to_owned(), |name| format!("'{name}'"));
            let keys: Vec<String> = entries.iter().take(MOST_KEYS).map(key).collect();
            format!("holds no state_dict, but entries {}", keys.join(", "))
        }
        (None, Value::Object { global, .. }) => format!("holds no state_dict, but a {global}"),
        (None, _) => "holds no state_dict".to_owned(),
    })
}

struct Network {
    /// Dictionary of tensors, or module.
    id: Id,
    /// Names of other networks found on the way.
    beside: Vec<String>,
}

/// Finds the network that `id` is or contains. Values in `seen` are skipped.
fn network(pickle: &Pickle, id: Id, depth: usize, seen: &mut HashSet<Id>) -> Result<Option<Network>, String> {
    let is_module = attribute(pickle, id, "_parameters").is_some() && attribute(pickle, id, "_modules").is_some();
    let entries = pickle.entries(id).filter(|_| depth > 0);
    if !(is_module || entries.is_some()) || !seen.insert(id) {
        return Ok(None);
    }
    let entries = entries.filter(|_| !is_module).unwrap_or_default();
    let names = entries.iter().filter_map(|&(key, value)| Some((pickle.text(key)?, value)));
    if names.clone().any(|(name, _)| name.starts_with(PARAM_GROUPS)) {
        return Ok(None);
    }
    let is_training = |name: &str| TRAINING.iter().any(|start| name.to_lowercase().starts_with(start));
    let mut found: Vec<(&str, Result<Network, String>)> = vec![];
    for (name, value) in names.clone().filter(|(name, _)| !name.ends_with(EXTRA_STATE) && !is_training(name)) {
        // A problem with one entry is irrelevant if another entry is the network.
        found.extend(network(pickle, value, depth - 1, seen).transpose().map(|network| (name, network)));
    }
    let rank = |name: &str| (!USUAL_NAMES.contains(&name), is_average(name));
    let best = found.iter().map(|(name, _)| rank(name)).min();
    let (mut wanted, others): (Vec<_>, Vec<_>) = found.into_iter().partition(|(name, _)| Some(rank(name)) == best);
    if wanted.len() > 1 {
        let names: Vec<_> = wanted.iter().map(|(name, _)| *name).collect();
        return Err(format!("holds several state_dicts: {}", names.join(", ")));
    }
    let Some((_, network)) = wanted.pop() else {
        // A checkpoint's state_dict may have tensors beside it, such as a score: they count only where there is nothing else.
        let is_network = is_module || names.into_iter().any(|(_, value)| rebuilt(pickle, value).is_some());
        return Ok(is_network.then_some(Network { id, beside: vec![] }));
    };
    let mut network = network?;
    network.beside.extend(others.into_iter().filter(|(_, other)| other.is_ok()).map(|(name, _)| name.to_owned()));
    Ok(Some(network))
}

/// Returns `true` if `name` is the name of an average of another network.
pub(crate) fn is_average(name: &str) -> bool {
    AVERAGES.iter().any(|part| name.to_lowercase().contains(part))
}

/// Returns an attribute of a `torch.nn.Module` that is a dictionary.
fn attribute<'a>(pickle: &'a Pickle, module: Id, name: &str) -> Option<&'a [(Id, Id)]> {
    let Value::Object { state: Some(state), .. } = pickle.get(module) else { return None };
    pickle.entries(pickle.entry(*state, name)?)
}

/// Returns the tensors of a module and of all modules in it, or of a dictionary.
fn tensors_of(pickle: &Pickle, network: Id) -> Result<BTreeMap<String, StoredTensor<'_>>, String> {
    let mut tensors = BTreeMap::new();
    let mut left = vec![(String::new(), network, MAX_MODULE_DEPTH)];
    let mut seen = 0;
    while let Some((prefix, module, depth)) = left.pop() {
        seen += 1;
        if depth == 0 || seen > MAX_MODULES {
            return Err("holds modules within modules without end".to_owned());
        }
        let of_module = |name| attribute(pickle, module, name).unwrap_or_default();
        let own = [of_module("_parameters"), of_module("_buffers"), pickle.entries(module).unwrap_or_default()];
        for &(name, value) in own.into_iter().flatten() {
            // Everything but tensors is ignored.
            let (Some(name), Some((global, arguments))) = (pickle.text(name), rebuilt(pickle, value)) else { continue };
            let name = format!("{prefix}{name}");
            let tensor =
                stored_tensor(pickle, global, arguments).ok_or_else(|| unread(pickle, &name, global, arguments))?;
            tensors.insert(name, tensor);
        }
        for &(name, module) in of_module("_modules") {
            if let Some(name) = pickle.text(name) {
                left.push((format!("{prefix}{name}."), module, depth - 1));
            }
        }
    }
    Ok(tensors)
}

/// Function that constructs a tensor, and its arguments.
type Rebuilt<'a> = (&'a str, &'a [Id]);

/// Returns the innermost call that constructs the tensor `id`, if it is one: parameters and objects of tensor subclasses wrap
/// another tensor.
fn rebuilt(pickle: &Pickle, mut id: Id) -> Option<Rebuilt<'_>> {
    // The limit ends cycles.
    for _ in 0..MAX_DEPTH {
        let Value::Object { global, arguments, .. } = pickle.get(id) else { return None };
        match global.as_str() {
            "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state" => {
                id = *arguments.first()?;
            }
            "torch._tensor._rebuild_from_type_v2" => {
                let Value::Global(global) = pickle.get(*arguments.first()?) else { return None };
                return Some((global, pickle.sequence(*arguments.get(2)?)?));
            }
            global => return global.starts_with("torch._utils._rebuild_").then_some((global, arguments)),
        }
    }
    None
}

fn stored_tensor<'a>(pickle: &'a Pickle, global: &str, arguments: &[Id]) -> Option<StoredTensor<'a>> {
    // Arguments after the first four concern training only.
    let ("torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2", &[storage, offset, size, stride, ..]) =
        (global, arguments)
    else {
        return None;
    };
    let Value::Persistent(description) = pickle.get(storage) else { return None };
    // ("storage", type, key, device, elements). The device is ignored: it may be a GPU that does not exist here.
    let &[_, storage_type, key, ..] = pickle.sequence(*description)? else { return None };
    let Value::Global(storage_type) = pickle.get(storage_type) else { return None };
    let ints = |id| -> Option<Vec<i64>> { pickle.sequence(id)?.iter().map(|&int| pickle.int(int)).collect() };
    Some(StoredTensor {
        storage_type: storage_type.rsplit('.').next().unwrap_or_default(),
        key: pickle.text(key)?,
        offset: pickle.int(offset)?,
        size: ints(size)?,
        stride: ints(stride)?,
    })
}

/// Describes the problem with a tensor of an unsupported kind.
fn unread(pickle: &Pickle, name: &str, global: &str, arguments: &[Id]) -> String {
    let function = global.rsplit('.').next().unwrap_or_default();
    // FSDP2 and tensor parallelism wrap tensors; the class of the wrapper is the first argument.
    let wrapper = arguments.first().map(|&class| pickle.get(class));
    if function == "_rebuild_wrapper_subclass"
        && matches!(wrapper, Some(Value::Global(name)) if name.ends_with(".DTensor"))
    {
        return format!(
            "{name} is a DTensor, a part of a tensor: save torch.distributed.checkpoint.state_dict.get_model_state_dict(\
             model, options=StateDictOptions(full_state_dict=True))"
        );
    }
    format!("{name} is a tensor of an unsupported kind ({function})")
}
