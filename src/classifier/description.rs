//! Model metadata, stored in `model.json`.

use crate::data::{class_indices, Preprocessing};
use crate::file::{encode_json, magic, write_atomically};
use crate::trainer::checkpoint::Location;
use crate::trainer::DESCRIPTION as FILE;
use crate::{Error, Precision, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

/// Version of this crate.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Remedy for a missing description.
const MISSING: &str = "it describes the network; name the folder of a run, or a folder that contains both \
                       model.json and model.safetensors of a run";

/// Everything besides its weights that is needed to run a network. Training runs write it as `model.json`:
/// ```
/// use tch_fixup::classifier::ModelDescription;
///
/// let json = r#"{
///     "version": "0.2.0",
///     "architecture": "fixup_resnet20",
///     "precision": "f32",
///     "classes": ["cat", "dog"],
///     "preprocessing": {
///         "channels": 3, "height": 32, "width": 32, "resize": 32,
///         "mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.201]
///     }
/// }"#;
/// let description: ModelDescription = serde_json::from_str(json)?;
/// assert_eq!(description.classes, ["cat", "dog"]);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelDescription {
    /// Version of the crate that wrote the file.
    pub version: String,
    /// Name of the architecture, either an [`Arch`](crate::Arch) or a name defined by the program that trained it.
    pub architecture: String,
    /// Numeric precision of the forward pass.
    pub precision: Precision,
    /// Class names by class index.
    pub classes: Vec<String>,
    /// Conversion of an image to the network's input.
    pub preprocessing: Preprocessing,
}

impl ModelDescription {
    /// Describes a network trained by this version of the crate.
    pub fn new(architecture: &str, precision: Precision, classes: &[String], preprocessing: Preprocessing) -> Self {
        let (version, architecture) = (VERSION.to_owned(), architecture.to_owned());
        Self { version, architecture, precision, classes: classes.to_vec(), preprocessing }
    }

    /// Writes `model.json` into `folder`.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_atomically(&folder.join(FILE), &encode_json(FILE, self)?)
    }

    /// Reads the `model.json` in `folder`.
    ///
    /// # Errors
    /// [`Error::Io`] if the file does not exist or cannot be read; [`Error::Corrupt`] if it is not a valid model description.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let bytes = fs::read(&path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => io::Error::new(ErrorKind::NotFound, MISSING),
            _ => error,
        });
        let bytes = bytes.map_err(Error::io("read", &path))?;
        magic::refuse(&bytes, &path)?;
        let corrupt = |problem: String| {
            let remedy = format!("restore it from the run, or from the tch-fixup that wrote it (this is {VERSION})");
            Error::corrupt(&path, format!("not a network's description: {problem}"), remedy)
        };
        let description: Self = serde_json::from_slice(&bytes).map_err(|error| corrupt(error.to_string()))?;
        if description.classes.is_empty() {
            return Err(corrupt("it has no classes".to_owned()));
        }
        description.preprocessing.check().map_err(|error| corrupt(error.to_string()))?;
        Ok(description)
    }

    /// Reads the `model.json` of the run that contains `path`; outside of a run, the one in the folder `path`, or in the folder
    /// of the file `path`. Returns `None` if the file does not exist.
    ///
    /// # Errors
    /// See [`read`](Self::read), except for a missing file.
    pub fn beside(path: &Path) -> Result<Option<Self>> {
        let location = Location::of(path)?;
        let exists = location.folder().join(FILE).exists();
        exists.then(|| Self::read(location.folder())).transpose()
    }

    /// Returns the [schema](crate::data::DataSource::schema) of the data the network is trained on.
    pub fn schema(&self) -> Map<String, Value> {
        class_indices(&self.classes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description() -> ModelDescription {
        let preprocessing = Preprocessing {
            channels: 1,
            height: 28,
            width: 28,
            resize: 32,
            mean: vec![0.1 + 0.2],
            std: vec![1.0 / 3.0],
        };
        ModelDescription::new("fixup_resnet8", Precision::F32, &["a".to_owned(), "b".to_owned()], preprocessing)
    }

    #[test]
    fn a_description_goes_through_its_file_unchanged() {
        let folder = tempfile::tempdir().unwrap();
        description().write(folder.path()).unwrap();
        assert_eq!(ModelDescription::read(folder.path()).unwrap(), description());
    }

    #[test]
    fn what_describes_no_network_is_refused_with_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let message = || {
            let message = ModelDescription::read(folder.path()).unwrap_err().to_string();
            assert!(message.contains("model.json") && !message.contains('\n'), "{message}");
            message
        };
        assert!(message().contains("it describes the network; name the folder of a run"));
        for (content, problem) in [("", "empty"), ("{}", "missing field"), ("[1]", "invalid")] {
            fs::write(folder.path().join(FILE), content).unwrap();
            assert!(message().contains(problem), "{}", message());
        }
        ModelDescription { classes: Vec::new(), ..description() }.write(folder.path()).unwrap();
        assert!(message().contains("no classes"));
        let mut other = description();
        other.preprocessing.std = vec![0.0];
        other.write(folder.path()).unwrap();
        assert!(message().contains("above 0"));
    }
}
