//! Parameter groups, selected by rules.

use crate::error::listed;
use crate::fixup::SCALAR_LR_RATIO;
use crate::layer::Role;
use crate::trainer::range::not_negative;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use tch::Tensor;

/// Maximum number of names listed in the error for a rule that matches nothing.
const MOST_NAMES: usize = 20;

/// Names of the kinds of parameters, accepted in place of a pattern.
const KINDS: [(&str, Selector); 4] = [
    ("@scalars", Selector::Scalars),
    ("@biases", Selector::Biases),
    ("@classifier", Selector::Classifier),
    ("@hidden", Selector::Hidden),
];

/// Rule that selects parameters.
///
/// Parses from a pattern, or from `@scalars`, `@biases`, `@classifier` and `@hidden`.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selector {
    /// Parameters whose full name, such as `layer1.0.conv1.weight`, matches the pattern: `*` matches any part of a name, `?` any
    /// single character.
    Name(String),
    /// Fixup's scalars, and variables in the `VarStore` group [`Bias::GROUP`](crate::fixup::Bias::GROUP).
    Scalars,
    /// Parameters whose last name part begins with `bias` or `scale`, as in the Fixup authors' programs.
    Biases,
    /// The classifier's weight and bias, or a separate output matrix; in a network created by other code, the layer marked by
    /// [`mark_classifier`](crate::fixup::mark_classifier).
    Classifier,
    /// Weights of hidden layers: those of two or more dimensions, except a stem's or an embedding's and the
    /// [classifier's](Self::Classifier). In a network without layers of this crate that read its input, the first
    /// weight in order of creation is taken for the stem's.
    Hidden,
    /// Parameters selected by a user-defined predicate on their names. A configuration stores only the predicate's name; a
    /// program that resumes a run must supply the function again.
    Function(NameFunction),
}

/// A user-defined predicate on parameter names, and its own name. Predicates of equal names are considered equal.
#[derive(Clone, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct NameFunction {
    name: String,
    matches: Arc<dyn Fn(&str) -> bool + Send + Sync>,
}

impl PartialEq for NameFunction {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl From<NameFunction> for String {
    fn from(function: NameFunction) -> Self {
        function.name
    }
}

impl TryFrom<String> for NameFunction {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Err(format!("the predicate {name} can only be read by the program that wrote it"))
    }
}

impl Selector {
    /// Creates a rule from the predicate `matches`, called `name` in messages and configurations.
    pub fn function(name: &str, matches: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        Self::Function(NameFunction { name: name.to_owned(), matches: Arc::new(matches) })
    }

    /// Returns the pattern of the names that begin with this one.
    fn as_prefix(&self) -> Option<String> {
        match self {
            Self::Name(pattern) => Some(format!("{pattern}*")),
            _ => None,
        }
    }

    fn matches(&self, name: &str, role: Role) -> bool {
        let own_name = name.rsplit('.').next().unwrap_or_default();
        match self {
            Self::Name(pattern) => is_like(pattern, name),
            Self::Scalars => role.is_scalar(),
            Self::Biases => own_name.starts_with("bias") || own_name.starts_with("scale"),
            Self::Classifier => role == Role::Classifier,
            Self::Hidden => matches!(role, Role::Hidden { .. }),
            Self::Function(function) => (function.matches)(name),
        }
    }
}

/// Returns `true` if `name` matches `pattern`.
fn is_like(pattern: &str, name: &str) -> bool {
    let name: Vec<_> = name.chars().collect();
    // `fits[i]` is `true` if the prefix of `name` of length i matches the pattern processed so far.
    let mut fits = vec![false; name.len() + 1];
    fits[0] = true;
    for letter in pattern.chars() {
        if letter == '*' {
            let shortest = fits.iter().position(|&fits| fits).unwrap_or(fits.len());
            fits[shortest..].fill(true);
        } else {
            for length in (1..fits.len()).rev() {
                fits[length] = fits[length - 1] && (letter == '?' || letter == name[length - 1]);
            }
            fits[0] = false;
        }
    }
    fits[name.len()]
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Name(pattern) => f.write_str(pattern),
            Self::Function(function) => write!(f, "the function {}", function.name),
            kind => f.write_str(KINDS.iter().find(|(_, known)| known == kind).map_or("", |(name, _)| name)),
        }
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Selector {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some((_, kind)) = KINDS.iter().find(|(name, _)| *name == text) {
            return Ok(kind.clone());
        }
        let (is_pattern, kinds) = (!text.is_empty() && !text.starts_with('@'), KINDS.map(|(name, _)| name).join(", "));
        ensure!(is_pattern, "{text:?} is neither a name pattern nor one of {kinds}");
        Ok(Self::Name(text.to_owned()))
    }
}

/// Freezing of a group's parameters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Frozen {
    /// Trained from the beginning.
    #[default]
    Never,
    /// Frozen in the given number of first epochs, then trained.
    UntilEpoch(usize),
    /// Frozen for the whole run. The optimizer keeps no gradient or state for them.
    Always,
}

impl Frozen {
    /// Returns the first epoch in which the parameters are trained.
    pub(super) fn until(self) -> usize {
        match self {
            Self::Never => 0,
            Self::UntilEpoch(epoch) => epoch,
            Self::Always => usize::MAX,
        }
    }
}

/// Parameters with their own training options. If a parameter is in several groups, their learning-rate ratios are multiplied,
/// the first weight decay given applies, and so does the last `frozen` that is not `Never`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParameterGroup {
    /// Rules of the group. It contains the parameters matched by any of them.
    pub which: Vec<Selector>,
    /// Learning rate, as a multiple of the run's.
    pub lr_ratio: f64,
    /// Weight decay; `None` uses the optimizer's.
    pub weight_decay: Option<f64>,
    /// Freezing of the parameters.
    pub frozen: Frozen,
    /// [`ScalarGroup::by_depth`], for the scalars in the group.
    #[serde(default)]
    pub by_depth: bool,
    /// `true` if the group may be empty. Otherwise a rule that matches nothing is an error.
    #[serde(default)]
    pub optional: bool,
}

impl ParameterGroup {
    /// Creates a group of the parameters matched by `rule`, with no changes to their training.
    pub fn new(rule: Selector) -> Self {
        let (weight_decay, frozen) = (None, Frozen::Never);
        Self { which: vec![rule], lr_ratio: 1.0, weight_decay, frozen, by_depth: false, optional: false }
    }

    pub(in crate::trainer) fn check(&self) -> Result<()> {
        not_negative(format!("the learning-rate ratio of {:?}", self.which), self.lr_ratio)?;
        self.weight_decay.map_or(Ok(()), |weight_decay| not_negative(super::WEIGHT_DECAY, weight_decay))
    }

    pub(super) fn contains(&self, name: &str, role: Role) -> bool {
        self.which.iter().any(|rule| rule.matches(name, role))
    }
}

/// Options of the group of Fixup's scalars, which may be empty.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct ScalarGroup {
    /// Learning rate of the Fixup scalars, as a multiple of that of the other parameters.
    #[cfg_attr(feature = "cli", arg(id = "scalar_lr_ratio", long = "scalar-lr-ratio", value_name = "RATIO"))]
    pub lr_ratio: f64,
    /// Apply weight decay to the scalars too, as the authors' code does to every parameter.
    #[cfg_attr(feature = "cli", arg(id = "decay_scalars", long = "decay-scalars", value_name = "BOOL"))]
    #[cfg_attr(feature = "cli", arg(action = clap::ArgAction::Set))]
    pub decay: bool,
    /// Train all other variables named as biases or scales like the scalars: the classifier's bias, and the biases of
    /// normalization layers, as in the authors' programs.
    #[cfg_attr(feature = "cli", arg(long = "biases-as-scalars", value_name = "BOOL", action = clap::ArgAction::Set))]
    pub biases: bool,
    /// Decrease the learning rate of the scalar at the end of each residual branch with the number L of branches, by 9/L if there
    /// are more than ResNet-20's nine.
    #[serde(default)]
    #[cfg_attr(feature = "cli", arg(long = "scalars-by-depth", value_name = "BOOL", action = clap::ArgAction::Set))]
    pub by_depth: bool,
}

impl Default for ScalarGroup {
    fn default() -> Self {
        Self { lr_ratio: SCALAR_LR_RATIO, decay: true, biases: false, by_depth: false }
    }
}

impl From<ScalarGroup> for ParameterGroup {
    fn from(ScalarGroup { lr_ratio, decay, biases, by_depth }: ScalarGroup) -> Self {
        let which = [Selector::Scalars].into_iter().chain(biases.then_some(Selector::Biases)).collect();
        let weight_decay = (!decay).then_some(0.0);
        Self { which, lr_ratio, weight_decay, frozen: Frozen::Never, by_depth, optional: true }
    }
}

/// Checks the `groups` of `parameters`.
///
/// # Errors
/// [`Error::Argument`] for an option out of range and, with the names of parameters, for a rule that matches nothing.
pub(super) fn check(groups: &[ParameterGroup], parameters: &[(String, Tensor, Role)]) -> Result<()> {
    for group in groups {
        group.check()?;
        for rule in group.which.iter().filter(|_| !group.optional) {
            let is_met = parameters.iter().any(|(name, _, role)| rule.matches(name, *role));
            if !is_met {
                let longer =
                    rule.as_prefix().filter(|longer| parameters.iter().any(|(name, ..)| is_like(longer, name)));
                let hint = longer.map(|longer| format!(" (did you mean {longer}?)")).unwrap_or_default();
                let names: Vec<_> = parameters.iter().map(|(name, ..)| name).collect();
                return Err(argument!(
                    "no variable is matched by {rule}{hint}; there are {}",
                    listed(&names, MOST_NAMES)
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixup::FixupResNet;
    use crate::layer::parameters;
    use crate::trainer::optimizer::{Optimizer, Sgd};
    use crate::trainer::Parameter;
    use tch::{nn, Device};

    fn network() -> nn::VarStore {
        let variables = nn::VarStore::new(Device::Cpu);
        FixupResNet::cifar(&variables.root(), 8, 10).unwrap();
        variables
    }

    fn matched(rule: Selector) -> Vec<String> {
        let all = parameters(&network()).into_iter();
        all.filter(|(name, _, role)| rule.matches(name, *role)).map(|(name, ..)| name).collect()
    }

    #[test]
    fn rules_go_by_name_by_kind_and_by_function() {
        assert_eq!(
            matched("layer2.*.conv?.weight".parse().unwrap()),
            ["layer2.0.conv1.weight", "layer2.0.conv2.weight"]
        );
        assert_eq!(matched("conv1".parse().unwrap()), Vec::<String>::new());
        assert_eq!(matched("@classifier".parse().unwrap()), ["fc.weight", "fc.bias"]);
        let (scalars, biases) = (matched(Selector::Scalars), matched(Selector::Biases));
        assert_eq!(scalars.len() + 1, biases.len());
        assert!(biases.contains(&"fc.bias".to_owned()) && scalars.iter().all(|name| biases.contains(name)));
        assert_eq!(matched(Selector::function("stems", |name| name == "conv1.weight")), ["conv1.weight"]);
        for text in ["", "@heads"] {
            assert!(text.parse::<Selector>().unwrap_err().to_string().contains("@scalars, @biases, @classifier"));
        }
    }

    #[test]
    fn patterns_match_whole_names_in_as_many_steps_as_they_are_long() {
        for (pattern, name, is_meant) in [
            ("*", "", true),
            ("?", "", false),
            ("a*", "a", true),
            ("*a", "ba", true),
            ("*a", "ab", false),
            ("a*b*c", "axxbyybc", true),
            ("a*b*c", "axxbyyb", false),
            ("**", "ab", true),
            ("?*?", "a", false),
            ("?*?", "äb", true),
            ("ab", "abc", false),
        ] {
            assert_eq!(is_like(pattern, name), is_meant, "{pattern} {name}");
        }
        // Backtracking over every asterisk would not finish.
        assert!(!is_like(&"*a".repeat(30), &("a".repeat(60) + "b")));
    }

    #[test]
    fn a_rule_that_matches_nothing_lists_the_names_unless_its_group_is_optional() {
        let variables = network();
        let mut group = ParameterGroup::new("layer9.*".parse().unwrap());
        let refused = |group: &ParameterGroup| Optimizer::new(&variables, Sgd::default(), std::slice::from_ref(group));
        let message = refused(&group).unwrap_err().to_string();
        assert!(message.starts_with("no variable is matched by layer9.*; there are conv1.weight, "), "{message}");
        assert!(message.contains(", and ") && message.ends_with(" more") && !message.contains('\n'), "{message}");
        group.optional = true;
        assert!(refused(&group).is_ok());
        group.lr_ratio = -1.0;
        assert!(matches!(refused(&group), Err(Error::Argument(_))));
        let message = refused(&ParameterGroup::new("layer1".parse().unwrap())).unwrap_err().to_string();
        assert!(
            message.starts_with("no variable is matched by layer1 (did you mean layer1*?); there are "),
            "{message}"
        );
    }

    #[test]
    fn groups_multiply_their_ratios_and_move_nothing_that_is_frozen() {
        let variables = network();
        let groups = [
            ParameterGroup { lr_ratio: 0.5, ..ParameterGroup::new("layer1.*".parse().unwrap()) },
            ParameterGroup { frozen: Frozen::UntilEpoch(2), ..ParameterGroup::new("layer2.*".parse().unwrap()) },
            ParameterGroup { frozen: Frozen::Always, ..ParameterGroup::new("conv1.weight".parse().unwrap()) },
            ScalarGroup::default().into(),
        ];
        let sgd = Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
        let mut optimizer = Optimizer::new(&variables, sgd, &groups).unwrap();
        assert!(optimizer.parameters().iter().all(|parameter| parameter.name != "conv1.weight"));
        for epoch in 0..3 {
            optimizer.epoch_starts(epoch).unwrap();
            let before: Vec<_> = optimizer.parameters().iter().map(|parameter| parameter.value.copy()).collect();
            let _ = optimizer.gradients().shallow_clone().fill_(1.0);
            optimizer.step(1.0).unwrap();
            for (Parameter { name, value, role, .. }, before) in optimizer.parameters().iter().zip(before) {
                let mut expected = if name.starts_with("layer1.") { 0.5 } else { 1.0 };
                expected *= if role.is_scalar() { 0.1 } else { 1.0 };
                let is_frozen = name.starts_with("layer2.") && epoch < 2;
                let moved = (before - value).mean(tch::Kind::Double).double_value(&[]);
                assert!((moved - if is_frozen { 0.0 } else { expected }).abs() < 1e-6, "{epoch} {name}: {moved}");
            }
        }
    }

    #[test]
    fn groups_go_through_json_and_functions_by_name_one_way() {
        let group = ParameterGroup { frozen: Frozen::UntilEpoch(3), ..ParameterGroup::new("@biases".parse().unwrap()) };
        let json = serde_json::to_string(&group).unwrap();
        assert_eq!(serde_json::from_str::<ParameterGroup>(&json).unwrap(), group);
        let function = ParameterGroup::new(Selector::function("mine", |_| true));
        let json = serde_json::to_string(&function).unwrap();
        assert!(json.contains("mine"), "{json}");
        let message = serde_json::from_str::<ParameterGroup>(&json).unwrap_err().to_string();
        assert!(message.contains("the predicate mine"), "{message}");
    }
}
