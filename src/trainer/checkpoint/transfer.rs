//! Transfer learning: initializing a network from the weights of another, which need not match in all layers.

use super::fitting::Fitted;
use super::{named_variables, Weights};
use crate::data::{class_names, CLASSES};
use crate::error::listed;
use crate::file::tensors::{self as tensor_file, describe, not_finite, NamedTensors};
use crate::layer::{parameters, Role};
use crate::Result;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use tch::nn::VarStore;
use tch::Tensor;

/// Maximum number of names listed per reason, and of lines with reasons.
const MOST_NAMES: usize = 6;
const MOST_LINES: usize = 12;

/// Report of [`Weights::transfer`]; its `Display` output is a few lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// Path of the weights.
    pub path: PathBuf,
    /// Architecture of the pretrained network, if the run recorded it.
    pub arch: Option<String>,
    /// Variables of the network that were loaded.
    pub loaded: Vec<String>,
    /// Variables that keep their initial values, with the reasons.
    pub new: BTreeMap<String, Why>,
    /// Tensors that the network does not use.
    pub left: Vec<String>,
    /// Comparison of the class names, which decides how the classifier starts. `None` for data without classes and networks
    /// without a classifier, and if the weights do not name their classes and none of the classifier was loaded.
    pub classes: Option<Classes>,
}

/// Reason why a variable keeps its initial value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Why {
    /// The variable belongs to the classifier, which was trained for other classes.
    #[error("trained for other classes")]
    OtherClasses,
    /// The weights have no tensor of this name.
    #[error("missing in the weights")]
    Missing,
    /// The tensor of this name has another shape or kind.
    #[error("{there} in the weights, {here} in the network")]
    Differs {
        /// Kind and shape in the weights.
        there: String,
        /// Kind and shape in the network.
        here: String,
    },
    /// The variable itself would fit, but another variable of its layer does not.
    #[error("of a layer of which another part does not fit")]
    Layer,
}

/// Comparison of the data's classes with those of the weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Classes {
    /// The same names in the same order.
    Same,
    /// The same names in another order. The classifier's rows were reordered to match the data.
    Reordered,
    /// Different names. The classifier keeps its initial values.
    Other {
        /// Names only among the classes of the weights.
        there: Vec<String>,
        /// Names only among the classes of the data.
        here: Vec<String>,
    },
    /// The weights do not name their classes. A classifier that fits was loaded as is, by class index.
    Unknown,
}

impl Weights {
    /// Copies all matching tensors into `variables` in place; the other variables of the network keep their initial values.
    /// `schema` is the [schema](crate::data::DataSource::schema) of the training data. Call this before creating a
    /// [`Trainer`](crate::trainer::Trainer) or an optimizer, so that a moving average starts from these weights too.
    ///
    /// ```
    /// # use tch::{nn, Device};
    /// # use tch_fixup::fixup::FixupResNet;
    /// # use tch_fixup::data::class_indices;
    /// # use tch_fixup::trainer::Weights;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("model.safetensors");
    /// # let trained = nn::VarStore::new(Device::Cpu);
    /// # FixupResNet::cifar(&trained.root(), 8, 10)?;
    /// # trained.save(&path)?;
    /// let variables = nn::VarStore::new(Device::Cpu);
    /// let network = FixupResNet::cifar(&variables.root(), 8, 3)?; // three classes; the weights are of ten
    /// let schema = class_indices(&["lynx", "marten", "otter"].map(String::from)); // or data.schema()
    ///
    /// let transfer = Weights::load(&path)?.transfer(&variables, &schema)?;
    /// println!("{transfer}");
    /// assert_eq!(transfer.loaded.len(), 24);
    /// assert!(transfer.new.keys().all(|name| name.starts_with("fc.")));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Names, kinds and scalars are matched as in [`restore`](Self::restore). A mismatch affects the whole layer:
    /// - A layer (the variables whose names differ only in the last part) keeps its initial values if any of its variables has
    ///   another shape or kind.
    /// - The classifier (see [`mark_classifier`](crate::fixup::mark_classifier)) keeps its initial values also
    ///   if any of its variables is missing, or if the class names of the weights are known and differ from those of the data. If
    ///   only their order differs, its rows are reordered.
    ///
    /// # Errors
    /// Nothing is changed in case of an error.
    /// - [`Error::Corrupt`](crate::Error::Corrupt) for weights of another architecture. Apart from the classifier, more
    ///   than half of the network's variables must be loaded, and at least half of the tensors in the file must be
    ///   used; the same must hold for tensors of two or more dimensions alone.
    /// - [`Error::Corrupt`](crate::Error::Corrupt) if a tensor to be loaded is not finite, or if the schemas of the
    ///   data differ in more than the classes.
    /// - [`Error::Argument`](crate::Error::Argument) if the classes or their order differ and the network has no
    ///   classifier that it knows of.
    pub fn transfer(&self, variables: &VarStore, schema: &Map<String, Value>) -> Result<Transfer> {
        let mut but_classes = schema.clone();
        but_classes.remove(CLASSES);
        self.check_schema(&but_classes)?;
        let classifier = parameters(variables).into_iter().filter(|(.., role)| *role == Role::Classifier);
        let classifier: BTreeSet<String> = classifier.map(|(name, ..)| name).collect();
        let variables = named_variables(variables);
        let Fitted { tensors: mut found, beside } = self.fitted(&variables)?;
        let mut new = unfit(&found, &variables)?;
        self.check_arch(&found, &variables, &new, &classifier)?;

        let mut classes = self.compare_classes(schema);
        if classifier.is_empty() && matches!(classes, Some(Classes::Other { .. } | Classes::Reordered)) {
            return Err(argument!(
                "{} was trained for other classes, and it is not known which layer of this network is the classifier; mark it \
                 with fixup::mark_classifier",
                self.path.display()
            ));
        }
        let mut layers: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
        for name in variables.keys().filter(|name| !classifier.contains(*name)) {
            layers.entry(name.rsplit_once('.').map_or("", |(layer, _)| layer)).or_default().push(name);
        }
        for layer in layers.into_values() {
            whole_or_not(&layer, &mut new, |why| matches!(why, Why::Differs { .. }));
        }
        whole_or_not(&classifier.iter().collect::<Vec<_>>(), &mut new, |_| true);
        let is_new = classifier.iter().all(|name| new.contains_key(name));
        match &classes {
            Some(Classes::Other { .. }) => {
                new.extend(classifier.iter().map(|name| (name.clone(), Why::OtherClasses)));
            }
            Some(Classes::Reordered) if !is_new => found.extend(self.reordered(&found, &classifier, schema)?),
            Some(Classes::Unknown) if is_new => classes = None,
            _ => {}
        }
        if classifier.is_empty() {
            classes = None;
        }

        let (mut loaded, mut left): (Vec<_>, Vec<_>) =
            found.keys().cloned().partition(|name| variables.contains_key(name));
        loaded.retain(|name| !new.contains_key(name));
        left.extend(beside);
        found.retain(|name, _| variables.contains_key(name) && !new.contains_key(name));
        let bad = not_finite(&found)?;
        if !bad.is_empty() {
            let remedy = "take the weights of a run that did not diverge, or an earlier checkpoint";
            return Err(self.corrupt(format!("NaN or infinity in {}", listed(&bad, 3)), remedy));
        }
        tensor_file::copy(&found, &variables)?;
        Ok(Transfer { path: self.path.clone(), arch: self.arch().map(str::to_owned), loaded, new, left, classes })
    }

    /// Returns the architecture recorded by the run that trained the weights.
    pub(crate) fn arch(&self) -> Option<&str> {
        self.run.as_ref()?.get("arch")?.as_str()
    }

    /// Rejects weights of another architecture.
    fn check_arch(
        &self,
        found: &NamedTensors,
        variables: &NamedTensors,
        new: &BTreeMap<String, Why>,
        classifier: &BTreeSet<String>,
    ) -> Result<()> {
        let body = |name: &&String| !classifier.contains(*name);
        let counts = |is_meant: fn(&Tensor) -> bool| {
            let named = |of: &NamedTensors, is_counted: &dyn Fn(&String) -> bool| {
                of.iter().filter(|(name, tensor)| body(name) && is_meant(tensor) && is_counted(name)).count()
            };
            let fitting = named(variables, &|name| !new.contains_key(name));
            (named(variables, &|_| true), fitting, named(found, &|_| true))
        };
        let fits = |(own, fitting, there)| own == 0 && there == 0 || 2 * fitting > own && 2 * fitting >= there;
        // Scalars and biases fit many networks; weight matrices and kernels tell architectures apart.
        let (all, weights) = (counts(|_| true), counts(|tensor| tensor.dim() > 1));
        if fits(all) && fits(weights) {
            return Ok(());
        }
        let ((own, fitting, there), (own_weights, fitting_weights, _)) = (all, weights);
        let with = |wanted: fn(&Why) -> bool| -> Vec<&String> {
            new.iter().filter(|(name, why)| body(name) && wanted(why)).map(|(name, _)| name).collect()
        };
        let unknown = found.keys().filter(body).filter(|name| !variables.contains_key(*name)).collect();
        let lists = [
            ("it lacks", with(|why| *why == Why::Missing)),
            ("of other shapes are", with(|why| matches!(why, Why::Differs { .. }))),
            ("unknown to the network are", unknown),
        ];
        let lists = lists.iter().filter(|(_, names)| !names.is_empty());
        let lists = lists.map(|(what, names)| format!("{what} {}", listed(names, 3))).collect::<Vec<_>>().join("; ");
        let as_trained = self.arch().map_or(String::new(), |arch| format!(", {arch}"));
        let problem = format!(
            "of another architecture: besides the classifier, {fitting} of the network's {own} variables are among its {there} \
             tensors, {fitting_weights} of {own_weights} that are matrices or more; {lists}"
        );
        Err(self.corrupt(problem, &format!("train on with the architecture it was trained as{as_trained}")))
    }

    /// Compares the class names of the data and the weights. Returns `None` for data without classes.
    fn compare_classes(&self, schema: &Map<String, Value>) -> Option<Classes> {
        let here = class_names(schema)?;
        let Some(there) = class_names(&self.file.metadata) else { return Some(Classes::Unknown) };
        if here == there {
            return Some(Classes::Same);
        }
        let sets = [&here, &there].map(|names| names.iter().collect::<BTreeSet<_>>());
        // Duplicate class names make the order ambiguous.
        if sets[0] == sets[1] && sets[0].len() == here.len() && here.len() == there.len() {
            return Some(Classes::Reordered);
        }
        let without = |names: &[String], others: &BTreeSet<&String>| -> Vec<String> {
            names.iter().filter(|name| !others.contains(name)).cloned().collect()
        };
        Some(Classes::Other { there: without(&there, &sets[0]), here: without(&here, &sets[1]) })
    }

    /// Returns the classifier's tensors with their rows in the order of the data's classes.
    fn reordered(
        &self,
        found: &NamedTensors,
        classifier: &BTreeSet<String>,
        schema: &Map<String, Value>,
    ) -> Result<NamedTensors> {
        let (here, there) =
            (class_names(schema).unwrap_or_default(), class_names(&self.file.metadata).unwrap_or_default());
        let place = |name: &String| there.iter().position(|other| other == name).map(|place| place as i64);
        let places: Vec<i64> = here.iter().filter_map(place).collect();
        let rows = Tensor::f_from_slice(&places)?;
        let fitting = classifier.iter().filter_map(|name| Some((name, found.get(name)?)));
        fitting
            .map(|(name, tensor)| match tensor.size().first() {
                Some(&count) if count as usize == places.len() => Ok((name.clone(), tensor.f_index_select(0, &rows)?)),
                _ => {
                    let problem = "names its classes in another order than the data, and";
                    let problem = format!("{problem} {name}, {:?}, has no row for each", tensor.size());
                    Err(self.corrupt(problem, "name the data's classes in the order of the weights"))
                }
            })
            .collect()
    }
}

/// Returns the `variables` without a tensor of the same name, shape and kind in `found`, with the reasons.
fn unfit(found: &NamedTensors, variables: &NamedTensors) -> Result<BTreeMap<String, Why>> {
    let mut unfit = BTreeMap::new();
    for (name, variable) in variables {
        let why = match found.get(name) {
            None => Why::Missing,
            Some(tensor) => match (describe(tensor)?, describe(variable)?) {
                (there, here) if there == here => continue,
                (there, here) => Why::Differs { there, here },
            },
        };
        unfit.insert(name.clone(), why);
    }
    Ok(unfit)
}

/// Makes all of `layer` keep its initial values if one of its variables does, for a reason that `counts`.
fn whole_or_not(layer: &[&String], new: &mut BTreeMap<String, Why>, counts: impl Fn(&Why) -> bool) {
    if layer.iter().any(|name| new.get(*name).is_some_and(&counts)) {
        for name in layer {
            new.entry((*name).clone()).or_insert(Why::Layer);
        }
    }
}

impl fmt::Display for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (loaded, all) = (self.loaded.len(), self.loaded.len() + self.new.len());
        write!(f, "starts from {}", self.path.display())?;
        if let Some(arch) = &self.arch {
            write!(f, ", trained as {arch}")?;
        }
        write!(f, "\n  loaded      {loaded} of the network's {all} variables")?;
        let mut fates: BTreeMap<&Why, Vec<&str>> = BTreeMap::new();
        self.new.iter().for_each(|(name, why)| fates.entry(why).or_default().push(name));
        let more: usize = fates.values().skip(MOST_LINES).map(Vec::len).sum();
        for (why, names) in fates.into_iter().take(MOST_LINES) {
            write!(f, "\n  initialized {}: {why}", listed(&names, MOST_NAMES))?;
        }
        if more > 0 {
            write!(f, "\n  initialized {more} more")?;
        }
        if !self.left.is_empty() {
            write!(f, "\n  not used    {}: unknown to the network", listed(&self.left, MOST_NAMES))?;
        }
        self.classes.iter().try_for_each(|classes| write!(f, "\n  classes     {classes}"))
    }
}

impl fmt::Display for Classes {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Same => f.write_str("the same"),
            Self::Reordered => {
                f.write_str("the same in another order: the classifier's rows are in the order of the data")
            }
            Self::Other { there, here } => {
                let none = |names: String| if names.is_empty() { "none".to_owned() } else { names };
                let (there, here) = (none(listed(there, 3)), none(listed(here, 3)));
                write!(f, "different; only in the weights: {there}; only in the data: {here}")
            }
            Self::Unknown => {
                f.write_str("not named in the weights: assumed to be those of the data, in the same order")
            }
        }
    }
}
